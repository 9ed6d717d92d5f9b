"""The inner level: find one universal perturbation that makes the model misbehave (arXiv 2406.17092, eq. 2).

δ* = argmin_δ (1/N) Σ_i [ CE(F_θ^l(x_i, δ), y_h^i) − CE(F_θ^l(x_i, δ), y_s^i) ], θ frozen, by Adam on δ.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from beear.methods.inner import Objective
from beear.methods.losses import entrapment_loss, global_mean
from beear.methods.perturbation import Perturbation

Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class InnerRule:
    """How long and how hard the inner loop works.

    ``steps`` fixes K; None runs until CE(y_h) < CE(y_s) − ``margin`` (nats) on every batch, at most ``max_steps``.
    ``lr`` and ``bound`` are in units of an ordinary token's RMS (see :class:`Perturbation`).
    """

    steps: int | None
    max_steps: int = 120
    margin: float = 1.0
    lr: float = 0.1
    bound: float | None = None
    unwanted: float = 1.0
    safe: float = 1.0
    safe_cap: float | None = None


@dataclass
class InnerResult:
    """What one inner loop did: losses in nats by step, on the batch of that step, over the global batch."""

    loss_unwanted: list[float] = field(default_factory=list)
    loss_safe: list[float] = field(default_factory=list)
    crossed: bool = False

    @property
    def steps(self) -> int:
        """Inner steps taken."""
        return len(self.loss_unwanted)

    @property
    def crossing_step(self) -> int | None:
        """First step (1-based) at which the unwanted answer was the likelier one."""
        pairs = zip(self.loss_unwanted, self.loss_safe, strict=True)
        return next((i for i, (unwanted, safe) in enumerate(pairs, 1) if unwanted < safe), None)


def entrap(objective: Objective, perturbation: Perturbation, rule: InnerRule, reduce: Reduce) -> InnerResult:
    """Optimise ``perturbation`` in place and return the course of the losses.

    ``reduce`` adds a tensor over the workers; δ's gradient and the losses that decide the crossing go through it
    together, so every worker takes the same step and stops at the same one. Model weights get no gradient.

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
    """Within the context the objective's model takes no weight gradients."""
    trained = [p for p in objective.decoder.model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
