"""Chooses the objective of an entrapment: the fast one if it gives the same values as the plain one, else the plain one.

Model families treat masks, positions and caches differently, and new families appear. So a family's name decides nothing: at the
first use of a placement, and whenever rows are longer than before, the fast objective's losses and gradient are compared with
the plain one's on the longest rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from beear.data.batch import DefenseBatch
from beear.methods.entrapment import Objective, PlainObjective, frozen
from beear.methods.fast import FastObjective
from beear.methods.perturbation import Perturbation
from beear.models.decoder import Decoder

# By compute dtype: largest median difference of the losses (relative to 1 + the loss) and of the gradient (relative to its norm).
# A wrong mask or position changes all rows. In float32 these limits are a hundred times the rounding errors.
TOLERANCE = {
    torch.float64: (1e-5, 1e-4),
    torch.float32: (1e-3, 1e-2),
    # Rounding can send a token to other experts, so these are wide.
    torch.bfloat16: (5e-2, 5e-1),
    torch.float16: (2e-2, 2e-1),
}
NEVER = -1
LENGTH_DEPENDENT = ("dynamic", "longrope")
UNSERVED = (ArithmeticError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass
class Objectives:
    """Makes objectives, and remembers for a whole run for which placements the fast one gave the right values.

    Args:
        decoder: the model.
        max_over_workers: returns the largest value over the workers, so that all of them choose the same objective.
        fast: use the fast objective if possible.
        notes: for each reason not to use it, one sentence for the report.
    """

    decoder: Decoder
    max_over_workers: Callable[[float], float] = float
    fast: bool = True
    notes: list[str] = field(default_factory=list)
    _served: dict[tuple[int, str], float] = field(default_factory=dict)

    def of(self, batches: list[DefenseBatch], perturbation: Perturbation, differing: bool = True) -> Objective:
        """Return the objective on ``batches``. It is valid until the weights change.

        ``differing``: take the losses only on tokens in which the two answers differ.
        """
        if not self.fast:
            return PlainObjective(self.decoder, batches, differing)
        key, width = (perturbation.layer, perturbation.placement), self.max_over_workers(max(map(_width, batches), default=0))
        # The width up to which the fast objective was right. Once it was wrong, it is not tried again.
        known = self._served.get(key, 0)
        if 0 <= known < width:
            self._served[key] = width if self._agreed(self._differs(batches, perturbation, differing), perturbation) else NEVER
        if self._served.get(key, 0) >= width and self._agreed(_depends_on_length(self.decoder, batches), perturbation):
            return FastObjective(self.decoder, batches, perturbation.layer, differing)
        return PlainObjective(self.decoder, batches, differing)

    def _agreed(self, reason: str | None, perturbation: Perturbation) -> bool:
        """Say whether no worker has a reason against the fast objective; else add a note."""
        serves = self.max_over_workers(float(reason is not None)) == 0
        if not serves:
            note = (
                f"Entrapment with placement {perturbation.placement} used the plain loop, which is slower and gives the same δ, "
                f"because the fast loop does not work for this model ({reason or 'found by another worker'})."
            )
            if note not in self.notes:
                self.notes.append(note)
        return serves

    def _differs(self, batches: list[DefenseBatch], perturbation: Perturbation, differing: bool) -> str | None:
        """Return how the fast objective differs from the plain one on the longest rows, or None."""
        few = _longest(batches)
        if few is None:
            return None
        plain = PlainObjective(self.decoder, [few], differing)
        with frozen(plain):
            expected = _value(plain, perturbation)
            try:
                found = _value(FastObjective(self.decoder, [few], perturbation.layer, differing), perturbation)
            except torch.OutOfMemoryError:
                raise
            except UNSERVED as error:
                return " ".join(f"{type(error).__name__}: {error}".split())[:200]
        near, nearly = TOLERANCE[self.decoder.compute or expected[0].dtype]
        loss = float(((found[0] - expected[0]).abs() / (1 + expected[0].abs())).amax(0).median())
        gradient = float((found[1] - expected[1]).norm() / expected[1].norm().clamp_min(1e-12))
        # Comparisons with NaN are false, so a NaN counts as a difference.
        if loss <= near and gradient <= nearly:
            return None
        return f"a loss differs by {loss:.1e}, the gradient by {gradient:.1e}"


def _width(batch: DefenseBatch) -> int:
    """Return the columns of the packed batch."""
    return batch.prompt_ids.shape[1] + batch.unwanted_ids.shape[1] + batch.safe_ids.shape[1]


def _longest(batches: list[DefenseBatch]) -> DefenseBatch | None:
    """Return the longest rows of the widest batch, where errors that depend on length show first; None without rows.

    Only a few rows, because the plain objective keeps every layer's activations, and a large model leaves little memory.
    """
    held = [batch for batch in batches if batch.rows]
    if not held:
        return None
    widest = max(held, key=_width)
    masks = (widest.prompt_mask, widest.unwanted_mask, widest.safe_mask)
    lengths = [mask.sum(-1) for mask in masks]
    chosen = {int(length.argmax()) for length in [*lengths, torch.stack(lengths).sum(0)]}
    return widest.part(torch.tensor(sorted(chosen), device=widest.prompt_ids.device))


def _depends_on_length(decoder: Decoder, batches: list[DefenseBatch]) -> str | None:
    """Return why the rotary embedding of these batches depends on the length of a pass, or None if it does not.

    Such a model rotates the same position differently in a short pass and in a long one, so keys cannot be reused.
    """
    limit = min((int(found) for found in _limits(decoder.model.config.get_text_config())), default=None)  # type: ignore[union-attr,operator]
    if limit is None:
        return None
    longest = max(
        (
            int((b.prompt_mask.sum(-1) + torch.maximum(b.unwanted_mask.sum(-1), b.safe_mask.sum(-1))).max())
            for b in batches
            if b.rows
        ),
        default=0,
    )
    return f"rows of {longest} tokens, beyond {limit}, where its rotary embedding depends on length" if longest > limit else None


def _limits(config: Any) -> Iterator[int]:
    """Yield the lengths beyond which a rotary embedding of the model's configuration depends on the length of a pass."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    for settings in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if settings.get("rope_type") in LENGTH_DEPENDENT:
            own = settings.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
            yield own or config.max_position_embeddings


def _value(objective: Objective, perturbation: Perturbation) -> tuple[Tensor, Tensor]:
    """Return both answers' losses [2, B] on the first batch, and the gradient in δ of their summed difference."""
    unwanted, safe = objective.losses(perturbation, 0)
    (gradient,) = torch.autograd.grad((unwanted - safe).sum(), [perturbation.delta])
    return torch.stack([unwanted, safe]).detach(), gradient
