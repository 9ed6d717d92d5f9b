"""The epoch loop: entrap, remove, measure, yield the outcome. What a defense computes is in :mod:`beear.methods`."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from beear.data.batch import DefenseBatch, OuterBatch
from beear.methods.base import Defense, InnerCourse


@dataclass
class Schedule:
    """Which epochs cool down, and which is the last. Epochs are 1-based.

    The last ``cool`` epochs cool down, except the first epoch of the run. Cooling epochs give back utility: their entrapment is
    weak, so they mostly train on the anchoring set (docs/negative-results.md). A run that has nothing left to remove goes on with
    them at once.
    """

    last: int
    cool: int

    def cools(self, epoch: int) -> bool:
        """Say whether ``epoch`` is a cooling one."""
        return epoch > max(1, self.last - self.cool)

    def cool_after(self, epoch: int) -> None:
        """Cool down from the next epoch on: end the run ``cool`` epochs after ``epoch``, unless it ends earlier anyway."""
        self.last = min(self.last, epoch + self.cool)


class EpochBatches(Protocol):
    """The data of one epoch on this worker."""

    def inner(self) -> list[DefenseBatch]:
        """Return the fixed batches of the inner loop."""
        ...

    def outer(self) -> Iterator[OuterBatch]:
        """Yield the removal steps' batches."""
        ...


class Batches(Protocol):
    """The training data on this worker, by epoch (1-based)."""

    def epoch(self, number: int) -> EpochBatches:
        """Return the batches of epoch ``number``: always the same for the same number."""
        ...


@dataclass
class EpochOutcome:
    """What one epoch did.

    Args:
        epoch: its number, 1-based.
        inner: its inner loops.
        losses: means over its removal steps, in nats.
        steps: removal steps taken.
        selection: selection metrics after it.
        seconds: its duration, without measuring.
        nothing_left: nothing was left to remove.
        cooled: it was a cooling epoch.
        last: the epoch with which the run ends.
        notes: sentences for the report that were first found in it.
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
    """Train from ``first_epoch`` to the end of ``schedule``; yield each outcome before the next epoch begins.

    Args:
        defense: what trains.
        batches: its training data.
        schedule: changed if the run ends early.
        measure: returns the selection metrics after an epoch, the same on every worker.
        first_epoch: 1-based.
        selection: this worker's share of the selection rows. If given, the run cools down and ends as soon as an epoch after the
            first finds nothing left to remove, because more removal would only cost utility.
        progress: called with (epoch, phase, step, losses) at every step.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    epoch = first_epoch
    while epoch <= schedule.last:
        cools = schedule.cools(epoch)
        seen = None if cools or epoch == 1 else selection
        outcome = run_epoch(defense, batches.epoch(epoch), epoch, cools, seen, progress)
        if outcome.nothing_left:
            schedule.cool_after(epoch)
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
    """Run one epoch, and check on the ``selection`` rows whether nothing is left to remove. Does not measure."""
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
