"""Which objective an entrapment uses: the fast one where it gives what the plain one gives, else the plain one.

Families differ in what they do with masks, positions and caches, and new ones come. So the fast objective is not trusted
by name: at a placement's first use its losses and gradient are held against the plain loop's on one batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from beear.data.batch import DefenseBatch
from beear.methods.entrapment import frozen
from beear.methods.fast import FastObjective
from beear.methods.inner import Objective, PlainObjective
from beear.methods.perturbation import Perturbation
from beear.models.decoder import Decoder

# By dtype of the products: largest difference of a loss (relative to 1 + it) and of the gradient (relative to its norm).
# A wrong mask or position shows as tens of percent; these are a hundred times what rounding does.
TOLERANCE = {
    torch.float64: (1e-5, 1e-4),
    torch.float32: (1e-3, 1e-2),
    torch.bfloat16: (5e-2, 2e-1),
    torch.float16: (2e-2, 1e-1),
}
# The plain loop keeps every layer's activations, which a large model has no room for on a whole batch.
CHECKED_ROWS = 4
UNSERVED = (ArithmeticError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass
class Objectives:
    """Makes objectives and remembers, for a whole run, what was found of each placement.

    ``most`` takes the largest of a number over the workers, so that all of them use the same loop. ``notes`` says in a
    sentence each, once, what the fast loop does not serve.
    """

    decoder: Decoder
    most: Callable[[float], float] = float
    fast: bool = True
    notes: list[str] = field(default_factory=list)
    _serves: dict[tuple[int, str], bool] = field(default_factory=dict)

    def of(self, batches: list[DefenseBatch], perturbation: Perturbation, differing: bool = True) -> Objective:
        """Return the objective on ``batches``; it holds for as long as the weights stay as they are.

        ``differing``: take the losses on the tokens in which the answers differ.
        """
        if not self.fast:
            return PlainObjective(self.decoder, batches, differing)
        key = (perturbation.layer, perturbation.placement)
        if key not in self._serves:
            reason = self._differs(batches, perturbation, differing)
            self._serves[key] = self.most(float(reason is not None)) == 0
            if not self._serves[key]:
                self.notes.append(
                    f"Entrapment with placement {perturbation.placement} ran the plain loop, which gives the same δ and takes "
                    f"longer: the fast one does not serve this model ({reason or 'found by another worker'})."
                )
        if self._serves[key]:
            return FastObjective(self.decoder, batches, perturbation.layer, differing)
        return PlainObjective(self.decoder, batches, differing)

    def _differs(self, batches: list[DefenseBatch], perturbation: Perturbation, differing: bool) -> str | None:
        """Return how the two differ on a few rows of the first batch that has any, or None."""
        few = next((batch.part(slice(0, CHECKED_ROWS)) for batch in batches if batch.rows), None)
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
        loss = float(((found[0] - expected[0]).abs() / (1 + expected[0].abs())).max())
        gradient = float((found[1] - expected[1]).norm() / expected[1].norm().clamp_min(1e-12))
        # Written so that a NaN is a difference.
        if loss <= near and gradient <= nearly:
            return None
        return f"a loss differs by {loss:.1e}, the gradient by {gradient:.1e}"


def _value(objective: Objective, perturbation: Perturbation) -> tuple[Tensor, Tensor]:
    """Return both answers' losses [2, B] on the first batch and the gradient of their difference."""
    unwanted, safe = objective.losses(perturbation, 0)
    (gradient,) = torch.autograd.grad((unwanted - safe).sum(), [perturbation.delta])
    return torch.stack([unwanted, safe]).detach(), gradient
