"""The inner level: find one perturbation for all prompts that makes the model misbehave (arXiv 2406.17092, eq. 2).

δ* = argmin_δ (1/N) Σ_i [ CE(F_θ^l(x_i, δ), y_h^i) − CE(F_θ^l(x_i, δ), y_s^i) ], θ frozen, by Adam on δ.

y_h is the unwanted answer ("harmful" in the paper), y_s the safe one.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from beear.data.batch import DefenseBatch
from beear.methods.base import InnerResult
from beear.methods.losses import entrapment_loss, global_mean, safe_loss, unwanted_loss
from beear.methods.perturbation import Perturbation
from beear.models.decoder import Decoder

Reduce = Callable[[Tensor], Tensor]


class Objective(Protocol):
    """Both answers' losses under δ on fixed batches.

    It may hold what the frozen weights gave, so a new one is made after every change of the weights.
    """

    decoder: Decoder
    batches: list[DefenseBatch]

    def losses(self, perturbation: Perturbation, batch: int) -> tuple[Tensor, Tensor]:
        """Return CE(y_h), CE(y_s) [B each], in nats, of batch number ``batch``, differentiable in δ."""
        ...


class PlainObjective:
    """Computes both answers' losses by a full forward pass for each answer. The fast objective must give the same values."""

    def __init__(self, decoder: Decoder, batches: list[DefenseBatch], differing: bool = True) -> None:
        """``differing``: take the losses only on tokens in which the two answers differ."""
        self.decoder, self.batches, self.differing = decoder, batches, differing

    def losses(self, perturbation: Perturbation, batch: int) -> tuple[Tensor, Tensor]:
        """Return CE(y_h), CE(y_s) [B each] of batch number ``batch``."""
        rows = self.batches[batch]
        return (
            unwanted_loss(self.decoder, rows, perturbation, self.differing),
            safe_loss(self.decoder, rows, perturbation, self.differing),
        )


@dataclass(frozen=True)
class InnerRule:
    """The settings of an inner loop.

    Args:
        steps: K; None runs until CE(y_h) < CE(y_s) − ``margin`` on every batch.
        max_steps: most steps if ``steps`` is None.
        margin: nats.
        lr: Adam step on δ, in units of an ordinary token's RMS.
        bound: largest norm of a vector, in units of that RMS * sqrt(D); None: no bound.
        unwanted: weight of the unwanted answer's loss.
        safe: weight of the safe answer's loss.
        safe_cap: cap on the safe answer's loss in nats; None: no cap.
    """

    steps: int | None
    max_steps: int = 120
    margin: float = 1.0
    lr: float = 0.1
    bound: float | None = None
    unwanted: float = 1.0
    safe: float = 1.0
    safe_cap: float | None = None


def entrap(objective: Objective, perturbation: Perturbation, rule: InnerRule, reduce: Reduce) -> InnerResult:
    """Optimise ``perturbation`` in place and return the losses by step. The weights take no gradient.

    ``reduce`` adds a tensor over the workers. It adds δ's gradient and the losses together, so all workers take the same steps
    and stop at the same one.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    optimizer = torch.optim.Adam([perturbation.delta], lr=rule.lr)
    result, gaps = InnerResult(), [math.inf] * len(objective.batches)
    with frozen(objective):
        for step in range(rule.steps or rule.max_steps):
            number = step % len(objective.batches)
            unwanted, safe = _inner_step(objective, perturbation, number, rule, optimizer, reduce)
            result.loss_unwanted.append(unwanted)
            result.loss_safe.append(safe)
            gaps[number] = unwanted - safe
            if max(gaps) < -rule.margin:
                result.crossed = True
                if rule.steps is None:
                    break
    return result


def _inner_step(
    objective: Objective,
    perturbation: Perturbation,
    number: int,
    rule: InnerRule,
    optimizer: torch.optim.Optimizer,
    reduce: Reduce,
) -> tuple[float, float]:
    total = objective.batches[number].global_rows
    delta = perturbation.delta
    if objective.batches[number].rows:
        unwanted, safe = objective.losses(perturbation, number)
        loss = entrapment_loss(unwanted, safe, total, rule.unwanted, rule.safe, rule.safe_cap)
        (gradient,) = torch.autograd.grad(loss, [delta])
        means = torch.stack([global_mean(unwanted.detach(), total), global_mean(safe.detach(), total)])
    else:
        gradient, means = torch.zeros_like(delta), delta.new_zeros(2)
    packed = reduce(torch.cat([gradient.flatten().to(means.dtype), means]))
    if not torch.isfinite(packed).all():
        raise FloatingPointError(f"entrapment: the loss or its gradient is not finite ({perturbation.placement})")
    delta.grad = packed[:-2].reshape(delta.shape).to(delta.dtype)
    optimizer.step()
    delta.grad = None
    perturbation.project(rule.bound)
    return float(packed[-2]), float(packed[-1])


@contextmanager
def frozen(objective: Objective) -> Iterator[None]:
    """Keep the weights of the objective's model from taking gradients within the context."""
    trained = [p for p in objective.decoder.model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@torch.no_grad()
def mean_gap(
    decoder: Decoder, perturbation: Perturbation, batches: list[DefenseBatch], reduce: Callable[[Tensor], Tensor]
) -> float:
    """Return the mean of CE(y_h) - CE(y_s) in nats under ``perturbation``, over the rows of all workers."""
    objective = PlainObjective(decoder, batches)
    total = torch.zeros(1, dtype=torch.float64, device=decoder.device)
    for number, batch in enumerate(batches):
        if batch.rows:
            unwanted, safe = objective.losses(perturbation, number)
            total += (unwanted - safe).double().sum() / batch.global_rows
    return float(reduce(total))
