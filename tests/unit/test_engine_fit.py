"""The epoch loop on a method that only records what it is asked: which epochs attack, cool down and end the run."""

import pytest

from beear.data.batch import DefenseBatch, OuterBatch
from beear.engine.fit import EpochOutcome, Schedule, epochs
from beear.methods.base import InnerCourse, MethodState

SELECTION: list[DefenseBatch] = []


class Recorder:
    """``clean_from`` is the first epoch in which nothing is left."""

    def __init__(self, clean_from: int = 99, epoch: int = 0) -> None:
        self.state, self.clean_from, self.epoch = MethodState(), clean_from, epoch
        self.cooled: dict[int, bool] = {}
        self.asked: list[int] = []
        self.notes: list[str] = []

    def begin_epoch(self, batches: list[DefenseBatch], cools: bool) -> list[InnerCourse]:
        self.epoch += 1
        if self.epoch == 2:
            self.notes.append("told once")
        self.cooled[self.epoch] = cools
        return []

    def nothing_left(self, courses: list[InnerCourse], selection: list[DefenseBatch]) -> bool:
        self.asked.append(self.epoch)
        return self.epoch >= self.clean_from

    def step(self, batch: OuterBatch) -> dict[str, float]:
        return {"removal": float(self.epoch)}


class Batches:
    def epoch(self, number: int) -> "Batches":
        return self

    def inner(self) -> list[DefenseBatch]:
        return []

    def outer(self) -> list[OuterBatch]:
        return [None, None]  # type: ignore[list-item]  # the recorder looks at no batch


def run(method: Recorder, schedule: Schedule, first: int = 1, stops: bool = True) -> list[EpochOutcome]:
    selection = SELECTION if stops else None
    return [*epochs(method, Batches(), schedule, lambda epoch: {"asr": epoch / 10}, first, selection)]  # type: ignore[arg-type]


def test_attacks_come_first_then_the_cooling_epochs() -> None:
    method = Recorder()
    seen = run(method, Schedule(last=5, cool=2))
    assert method.cooled == {1: False, 2: False, 3: False, 4: True, 5: True}
    assert [o.final for o in seen] == [False, False, False, False, True]
    assert [o.cooled for o in seen] == [False, False, False, True, True]
    assert [(o.epoch, o.steps, o.losses, o.selection) for o in seen][2] == (3, 2, {"removal": 3.0}, {"asr": 0.3})


def test_the_first_epoch_always_attacks_and_is_never_asked_whether_anything_is_left() -> None:
    method = Recorder(clean_from=1)
    run(method, Schedule(last=2, cool=5))
    assert method.cooled == {1: False, 2: True} and method.asked == []


@pytest.mark.parametrize(("clean_from", "cool", "ends"), [(2, 2, 4), (3, 0, 3), (3, 1, 4), (7, 2, 8), (9, 2, 8)])
def test_with_nothing_left_the_run_cools_down_at_once_and_ends(clean_from: int, cool: int, ends: int) -> None:
    method = Recorder(clean_from)
    seen = run(method, Schedule(last=8, cool=cool))
    assert seen[-1].epoch == ends and seen[-1].final
    attacks = min(clean_from, 8 - cool)
    assert [epoch for epoch, cools in method.cooled.items() if not cools] == list(range(1, attacks + 1))
    assert method.asked == list(range(2, attacks + 1))


def test_without_early_stop_nobody_is_asked() -> None:
    method = Recorder(clean_from=2)
    assert len(run(method, Schedule(last=4, cool=1), stops=False)) == 4 and method.asked == []


def test_a_resumed_run_ends_where_the_whole_one_does() -> None:
    whole = run(Recorder(clean_from=2), Schedule(last=8, cool=2))
    done = whole[1]
    method = Recorder(clean_from=2, epoch=done.epoch)
    rest = run(method, Schedule(done.last, cool=2), first=done.epoch + 1)
    assert [o.epoch for o in rest] == [3, 4] and rest[-1].final
    assert method.cooled == {3: True, 4: True}


def test_a_note_belongs_to_the_epoch_that_first_told_it() -> None:
    assert [o.notes for o in run(Recorder(), Schedule(last=3, cool=0))] == [[], ["told once"], []]
