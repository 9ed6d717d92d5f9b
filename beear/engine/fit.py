"""The epoch loop. It knows no maths and no Ray: entrap, remove, measure, hand over."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from beear.data.batch import DefenseBatch, OuterBatch
from beear.methods.base import InnerCourse, Method


class EpochBatches(Protocol):
    """One epoch's data on this worker."""

    def inner(self) -> list[DefenseBatch]:
        """Return the fixed batches of the inner loop."""
        ...

    def outer(self) -> Iterator[OuterBatch]:
        """Yield the removal steps' batches."""
        ...


class Batches(Protocol):
    """All data on this worker, by 1-based epoch."""

    def epoch(self, number: int) -> EpochBatches:
        """Return the batches of epoch ``number``; the same whenever it is asked for."""
        ...


@dataclass
class EpochOutcome:
    """What one epoch did. ``losses`` are means over its removal steps; ``final`` says that the run ends here."""

    epoch: int
    inner: list[InnerCourse] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    selection: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    nothing_left: bool = False
    final: bool = False


Progress = Callable[[int, str, int, dict[str, float]], None]


def fit(
    method: Method,
    batches: Batches,
    epochs: int,
    measure: Callable[[int], dict[str, float]],
    on_epoch: Callable[[EpochOutcome], None],
    first_epoch: int = 1,
    selection: list[DefenseBatch] | None = None,
    progress: Progress | None = None,
) -> None:
    """Alternate entrapment and removal from ``first_epoch`` to ``epochs``.

       ``measure(epoch)`` returns selection metrics, equal on every worker; ``on_epoch`` takes each outcome (and saves).
       With ``selection`` (this worker's shares of the selection rows) the run ends at the first epoch after the first
       whose entrapment no longer succeeds: the weights are then left as they are, since more removal only costs utility.
    ``progress(epoch, phase, step, losses)``
       is told of every step.

       Raises:
           FloatingPointError: a loss is not finite; what earlier epochs saved stays.
    """
    for epoch in range(first_epoch, epochs + 1):
        outcome = run_epoch(method, batches.epoch(epoch), epoch, selection if epoch > 1 else None, progress)
        outcome.selection = measure(epoch)
        outcome.final = outcome.nothing_left or epoch == epochs
        on_epoch(outcome)
        if outcome.final:
            break


def run_epoch(
    method: Method,
    batches: EpochBatches,
    epoch: int,
    selection: list[DefenseBatch] | None,
    progress: Progress | None,
) -> EpochOutcome:
    """Entrap, remove, and say whether ``selection`` rows show nothing left; selection metrics are not set here."""
    started, outcome = time.monotonic(), EpochOutcome(epoch)
    if progress:
        progress(epoch, "entrapment", 0, {})
    outcome.inner = method.begin_epoch(epoch, batches.inner())
    outcome.nothing_left = selection is not None and method.nothing_left(outcome.inner, selection)
    for batch in batches.outer():
        losses = method.step(batch)
        outcome.steps += 1
        for name, value in losses.items():
            outcome.losses[name] = outcome.losses.get(name, 0.0) + value
        if progress:
            progress(epoch, "removal", outcome.steps, losses)
    outcome.losses = {name: total / max(outcome.steps, 1) for name, total in outcome.losses.items()}
    outcome.seconds = time.monotonic() - started
    return outcome
