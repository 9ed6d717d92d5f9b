"""Which objective an entrapment uses: the fast one where it gives what the plain one gives, else the plain one.

Families differ in what they do with masks, positions and caches, and new ones come. So the fast objective is not trusted
by name: at a placement's first use, and where rows get longer, its losses and gradient are held against the plain loop's on
the longest rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from beear.data.batch import DefenseBatch
from beear.methods.entrapment import frozen
from beear.methods.fast import FastObjective
from beear.methods.inner import Objective, PlainObjective
from beear.methods.perturbation import Perturbation
from beear.models.decoder import Decoder

# By dtype of the products: largest difference of half the rows' losses (relative to 1 + them) and of the gradient (relative
# to its norm). A wrong mask or position shows in all; in float32 these are a hundred times what rounding does.
TOLERANCE = {
    torch.float64: (1e-5, 1e-4),
    torch.float32: (1e-3, 1e-2),
    # Rounding can send a token to other experts.
    torch.bfloat16: (5e-2, 5e-1),
    torch.float16: (2e-2, 2e-1),
}
NEVER = -1
LENGTH_DEPENDENT = ("dynamic", "longrope")
UNSERVED = (ArithmeticError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass
class Objectives:
    """Makes objectives and remembers, for a whole run, what was found of each placement.

    ``max_over_workers`` returns the largest value over the workers, so that all of them use the same loop. ``notes`` says
    in a sentence each, once, what the fast loop does not serve.
    """

    decoder: Decoder
    max_over_workers: Callable[[float], float] = float
    fast: bool = True
    notes: list[str] = field(default_factory=list)
    _served: dict[tuple[int, str], float] = field(default_factory=dict)

    def of(self, batches: list[DefenseBatch], perturbation: Perturbation, differing: bool = True) -> Objective:
        """Return the objective on ``batches``; it holds for as long as the weights stay as they are.

        ``differing``: take the losses on the tokens in which the answers differ.
        """
        if not self.fast:
            return PlainObjective(self.decoder, batches, differing)
        key, width = (perturbation.layer, perturbation.placement), self.max_over_workers(max(map(_width, batches), default=0))
        # Up to what width it was seen to serve; never again where it once did not.
        known = self._served.get(key, 0)
        if 0 <= known < width:
            self._served[key] = width if self._agreed(self._differs(batches, perturbation, differing), perturbation) else NEVER
        if self._served.get(key, 0) >= width and self._agreed(_turns(self.decoder, batches), perturbation):
            return FastObjective(self.decoder, batches, perturbation.layer, differing)
        return PlainObjective(self.decoder, batches, differing)

    def _agreed(self, reason: str | None, perturbation: Perturbation) -> bool:
        """Say whether no worker has a reason against the fast loop, and note one if there is."""
        serves = self.max_over_workers(float(reason is not None)) == 0
        if not serves:
            note = (
                f"Entrapment with placement {perturbation.placement} ran the plain loop, which gives the same δ and takes "
                f"longer: the fast one does not serve this model ({reason or 'found by another worker'})."
            )
            if note not in self.notes:
                self.notes.append(note)
        return serves

    def _differs(self, batches: list[DefenseBatch], perturbation: Perturbation, differing: bool) -> str | None:
        """Return how the two differ on the longest rows, or None."""
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
        # Written so that a NaN is a difference.
        if loss <= near and gradient <= nearly:
            return None
        return f"a loss differs by {loss:.1e}, the gradient by {gradient:.1e}"


def _width(batch: DefenseBatch) -> int:
    """Return the columns of the packed batch."""
    return batch.prompt_ids.shape[1] + batch.unwanted_ids.shape[1] + batch.safe_ids.shape[1]


def _longest(batches: list[DefenseBatch]) -> DefenseBatch | None:
    """Return, of the widest batch, the rows that make it so: what goes by length goes wrong there first.

    A few rows, because the plain loop keeps every layer's activations, for which a large model has little room.
    """
    held = [batch for batch in batches if batch.rows]
    if not held:
        return None
    widest = max(held, key=_width)
    masks = (widest.prompt_mask, widest.unwanted_mask, widest.safe_mask)
    lengths = [mask.sum(-1) for mask in masks]
    chosen = {int(length.argmax()) for length in [*lengths, torch.stack(lengths).sum(0)]}
    return widest.part(torch.tensor(sorted(chosen), device=widest.prompt_ids.device))


def _turns(decoder: Decoder, batches: list[DefenseBatch]) -> str | None:
    """Return why rotations of these batches' positions depend on how long a pass is, or None.

    Such a model turns a position by another angle in a short pass than in a long one, so that nothing can be kept.
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
    """Yield the lengths from which a rotary embedding of the configuration depends on the pass's length."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    for settings in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if settings.get("rope_type") in LENGTH_DEPENDENT:
            own = settings.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
            yield own or config.max_position_embeddings


def _value(objective: Objective, perturbation: Perturbation) -> tuple[Tensor, Tensor]:
    """Return both answers' losses [2, B] on the first batch and the gradient of their difference."""
    unwanted, safe = objective.losses(perturbation, 0)
    (gradient,) = torch.autograd.grad((unwanted - safe).sum(), [perturbation.delta])
    return torch.stack([unwanted, safe]).detach(), gradient
