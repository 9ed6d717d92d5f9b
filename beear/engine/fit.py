"""The epoch loop. It knows no maths and no Ray: entrap, remove, measure, hand over."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from beear.data.batch import DefenseBatch, OuterBatch
from beear.engine.schedule import Schedule
from beear.methods.base import Defense, InnerCourse


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
    """What one epoch did. ``losses`` are means over its removal steps; the run ends with epoch ``last``.

    ``cooled``: the epoch gave utility back rather than attack at full strength. ``notes``: what was first found in this epoch
    of how the work is done, a sentence each.
    """

    epoch: int
    inner: list[InnerCourse] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    selection: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    nothing_left: bool = False
    cooled: bool = False
    last: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def final(self) -> bool:
        """Whether the run ends here."""
        return self.epoch == self.last


Progress = Callable[[int, str, int, dict[str, float]], None]


def epochs(
    defense: Defense,
    batches: Batches,
    schedule: Schedule,
    measure: Callable[[int], dict[str, float]],
    first_epoch: int = 1,
    selection: list[DefenseBatch] | None = None,
    progress: Progress | None = None,
) -> Iterator[EpochOutcome]:
    """Alternate entrapment and removal from ``first_epoch`` to the end of ``schedule``, which may move forward.

    Each outcome is yielded before the next epoch begins. ``measure(epoch)`` returns selection metrics, equal on every worker.
    With ``selection`` (this worker's shares of the selection rows) the run cools down and ends once an entrapment
    after the first epoch's finds nothing left, since more removal then only costs utility.
    ``progress(epoch, phase, step, losses)`` is told of every step.

    Raises:
        FloatingPointError: a loss is not finite; what earlier epochs saved stays.
    """
    epoch = first_epoch
    while epoch <= schedule.last:
        cools = schedule.cools(epoch)
        seen = None if cools or epoch == 1 else selection
        outcome = run_epoch(defense, batches.epoch(epoch), epoch, cools, seen, progress)
        if outcome.nothing_left:
            schedule.stop_attacking(epoch)
        outcome.cooled, outcome.selection, outcome.last = cools, measure(epoch), schedule.last
        yield outcome
        epoch += 1


def run_epoch(
    defense: Defense,
    batches: EpochBatches,
    epoch: int,
    cools: bool,
    selection: list[DefenseBatch] | None,
    progress: Progress | None,
) -> EpochOutcome:
    """Entrap, remove, and say whether ``selection`` rows show nothing left; selection metrics are not set here."""
    started, outcome, told = time.monotonic(), EpochOutcome(epoch), len(defense.notes)
    if progress:
        progress(epoch, "entrapment", 0, {})
    outcome.inner = defense.begin_epoch(batches.inner(), cools)
    outcome.nothing_left = selection is not None and defense.nothing_left(outcome.inner, selection)
    for batch in batches.outer():
        losses = defense.step(batch)
        outcome.steps += 1
        for name, value in losses.items():
            outcome.losses[name] = outcome.losses.get(name, 0.0) + value
        if progress:
            progress(epoch, "removal", outcome.steps, losses)
    outcome.losses = {name: total / max(outcome.steps, 1) for name, total in outcome.losses.items()}
    outcome.notes = defense.notes[told:]
    outcome.seconds = time.monotonic() - started
    return outcome
