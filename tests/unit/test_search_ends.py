"""What is left of a search that was cut off, failed, or whose tracker was away, and what its ended trials give back."""

import gc
import json
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from ray.train.v2.api.exceptions import TrainingFailedError

from beear.config.schema import GateConfig
from beear.config.search import SearchConfig
from beear.errors import UserError
from beear.evaluation.trials import Yardstick
from beear.models.facts import ModelFacts
from beear.models.inspect import inspect_checkpoint
from beear.records.report import EpochRecord
from beear.records.search import Trial
from beear.run.progress import Progress
from beear.search import delivery, experiment, strategy
from beear.search.in_process_trial import InProcessTraining
from beear.search.monitor import Monitor, kept_trials, write_trials
from beear.search.ray_train_trial import RayTrainTraining
from beear.search.shared import Shared, run_folder
from beear.search.space import Between, OneOf, Space
from beear.search.trial import InProcessRun
from beear.testing.checkpoints import make_checkpoint
from tests.stages import FACTS, checked_run, placed_run

SPACE = Space("mine", {"method.layer": OneOf(1, 2, 3), "method.length": OneOf(3, 5, 8)})
SELECTION = {"asr_clear": 0.0, "asr_clean": 0.0, "asr_worst": 0.0, "exact_match": 0.9, "over_refusal": 0.0, "anchor_nll": 0.1}


def record(number: int) -> EpochRecord:
    return EpochRecord(epoch=number, selection=SELECTION)


def trial(name: str, status: Any, **more: Any) -> Trial:
    return Trial(id=name, number=0, settings={"method.layer": 1, "method.length": 3}, status=status, planned_epochs=2, **more)


def shared(folder: Path, facts: ModelFacts = FACTS, **values: Any) -> Shared:
    placed = placed_run(checked_run(folder, values, "tune", facts))
    return Shared(placed, Yardstick(dict(SELECTION), 30, GateConfig(), 0.95, 0.01), str(folder), probes=True)


class Course:
    """A training of two epochs that holds something large."""

    def __init__(self, _shared: Any, _settings: Any, _trial: str) -> None:
        self.history = [record(1)]

    def next(self) -> tuple[EpochRecord, bool]:
        self.history.append(record(2))
        return self.history[-1], True

    def close(self) -> None:
        pass


def begun(folder: Path, course: type = Course) -> InProcessRun:
    class Begun(InProcessRun):
        kind = course

        def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
            super().setup(config, shared(folder))

    return Begun({})


def test_a_trial_that_ended_before_tune_wrote_it_down_ends_again_without_training(tmp_path: Path) -> None:
    first = begun(tmp_path)
    said = first.step()
    assert said["done"] and said["through"] and said["met"]
    first.save_checkpoint(str(tmp_path / "checkpoint"))

    class Untouched(Course):
        def __init__(self, *_: Any) -> None:
            raise AssertionError("nothing is to be trained")

    second = begun(tmp_path, Untouched)
    second.load_checkpoint(str(tmp_path / "checkpoint"))
    again = second.step()
    assert {**again, "began": 0} == {**said, "began": 0}


def tuned(folder: Path, name: str, ended: bool) -> Any:
    place = folder / "trials" / name
    (place / "checkpoint_1").mkdir(parents=True)
    (run_folder(folder, name) / "checkpoint").mkdir(parents=True)
    storage = SimpleNamespace(trial_fs_path=str(place), experiment_fs_path=str(folder / "trials"))
    return SimpleNamespace(trial_id=name, storage=storage, is_finished=lambda: ended)


def state(folder: Path, session: str, **statuses: str) -> None:
    rows = [[json.dumps({"trial_id": name, "status": status}), "{}"] for name, status in statuses.items()]
    (folder / "trials" / f"experiment_state-{session}.json").write_text(json.dumps({"trial_data": rows}))


def test_what_a_trial_goes_on_from_stays_until_its_end_is_written_down(tmp_path: Path) -> None:
    watch = Monitor(tmp_path / "trials.json", planned=2)
    ended, running = tuned(tmp_path, "a", True), tuned(tmp_path, "b", False)

    def left() -> list[str]:
        watch.on_step_end(0, [ended, running])
        return sorted(path.parent.name for path in tmp_path.glob("*/*/checkpoint*"))

    assert left() == ["a", "a", "b", "b"]
    state(tmp_path, "1", a="RUNNING", b="RUNNING")
    assert left() == ["a", "a", "b", "b"]
    (tmp_path / "trials" / "experiment_state-1.json").write_text('{"trial_da')
    assert left() == ["a", "a", "b", "b"]
    state(tmp_path, "1", a="TERMINATED", b="RUNNING")
    assert left() == ["b", "b"]


def test_a_training_lets_its_model_go(tmp_path: Path) -> None:
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path / "model")))
    short = {"outer_steps": 1, "inner_steps": 1, "inner_batches": 1, "batch_size": 2, "early_stop": False}
    values = {"data.max_length": 200, "evaluate.selection_rows": 2, "evaluate.max_new_tokens": 2}
    values |= {f"method.{name}": value for name, value in short.items()}
    course = InProcessTraining(shared(tmp_path, facts, **values), {}, "t")
    # As a layer that holds itself does.
    course.session.model.held = [course.session.model]  # type: ignore[assignment]
    assert course.next()[0].epoch == 1
    model, made = weakref.ref(course.session.model), begun(tmp_path)
    made.course = course
    del course
    gc.disable()
    try:
        made.cleanup()
        assert model() is None
    finally:
        gc.enable()


def test_a_broken_state_costs_what_was_under_way_alone(tmp_path: Path) -> None:
    path = tmp_path / "trials.json"
    write_trials(path, [trial("a", "stopped early"), trial("b", "running"), trial("c", "failed")])
    done = Monitor(path, planned=2).forget_unfinished()
    assert [one.id for one in kept_trials(path)] == ["a", "c"] and len(done) == 2
    search = SearchConfig(algorithm="grid", trials=99)
    left = strategy.param_space(SPACE, search, 0, done)["settings"]["grid_search"]
    assert len(left) == strategy.wanted(SPACE, search, 0) - 1 and done[0] not in left
    assert strategy.samples(SearchConfig(algorithm="optuna", trials=5), len(done)) == 3


@pytest.mark.parametrize("broken", ["experiment_state-2.json", "basic-variant-state-2.json", "search_gen_state-2.json"])
def test_no_search_is_taken_up_from_half_a_file(tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune.Tuner, "can_restore", lambda _path: True)
    (tmp_path / "trials").mkdir()
    (tmp_path / experiment.PROCESSES).write_text("{}")
    for name in ("experiment_state-1.json", "experiment_state-2.json", "basic-variant-state-2.json"):
        (tmp_path / "trials" / name).write_text('{"a": 1}')
    assert experiment._begun(tmp_path)
    (tmp_path / "trials" / broken).write_text('{"a')
    assert not experiment._begun(tmp_path)


def test_a_search_whose_every_trial_failed_says_why() -> None:
    said: list[str] = []
    progress = Progress()
    progress.say = said.append  # type: ignore[method-assign]
    bad = [trial(name, "failed", reason="defense.jsonl, line 3: no prompt", mistake=True) for name in "abc"]
    with pytest.raises(UserError, match="every trial ended with this: defense.jsonl, line 3: no prompt"):
        delivery.show_failed(bad, progress)
    mixed = [*bad, trial("d", "failed", reason="its process ended")]
    assert delivery.show_failed(mixed, progress) == 1
    assert said == [
        "error: every trial failed, and the same command tries them again: "
        "3 of 4: defense.jsonl, line 3: no prompt; 1 of 4: its process ended"
    ]


@pytest.mark.parametrize(("matched", "measure", "sees"), [(0.0, "exact_match", False), (0.03, "exact_match", False),
                                                          (0.5, "exact_match", True), (0.0, "nll", True)])  # fmt: skip
def test_a_utility_that_cannot_be_lost_decides_nothing(matched: float, measure: Any, sees: bool) -> None:
    yard = Yardstick({"exact_match": matched}, 30, GateConfig(utility_measure=measure), 0.95, 0.01)
    assert (yard.blind() == "") is sees
    if not sees:
        assert f"{matched:.1%} of selection rows" in yard.blind() and "--gate.utility_measure nll" in yard.blind()


def test_lengths_that_no_prompt_has_room_for_are_left_out() -> None:
    assert SPACE.at_most("method.length", 5, "why").domains["method.length"] == OneOf(3, 5)
    wide = Space("mine", {"method.length": Between(2, 20, whole=True)})
    assert wide.at_most("method.length", 11, "why").domains["method.length"] == Between(2, 11, whole=True)
    assert wide.at_most("method.length", 2, "why").domains["method.length"] == OneOf(2)
    assert wide.at_most("method.layer", 1, "why") == wide
    for space in (SPACE, wide):
        with pytest.raises(UserError, match=r"method.length is searched from .*; expected a value of at most 1, the tokens"):
            space.at_most("method.length", 1, "the tokens")


def test_the_ends_of_a_space_are_settings_of_one_field_each() -> None:
    space = Space("mine", {"method.layer": OneOf(1, 3), "method.outer_lr": Between(1e-5, 1e-4, log=True)})
    ends = [{"method.layer": 1}, {"method.layer": 3}, {"method.outer_lr": 1e-5}, {"method.outer_lr": 1e-4}]
    assert space.ends() == ends


@pytest.mark.parametrize("final", [False, True])
def test_a_cold_trial_is_over_only_when_its_run_has_ended_for_good(
    final: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run that may start its workers again, or outlives its trial, would hold a place that nobody gives back."""
    removed, may_end, ended, asked = threading.Event(), threading.Event(), threading.Event(), list[int]()
    group = "ab" * 18

    def train(_spec: Any, _reservation: Any, _storage: Path, sink: Any, max_failures: int) -> list[EpochRecord]:
        asked.append(max_failures)
        sink({"kind": "started", "history": [], "group": group})
        sink({"kind": "epoch", "record": record(1).model_dump(mode="json"), "final": final})
        assert may_end.wait()
        ended.set()
        if not final:
            raise TrainingFailedError
        return [record(1)]

    def remove(found: Any) -> None:
        assert found.id.hex() == group
        removed.set()

    monkeypatch.setattr("beear.search.ray_train_trial.train", train)
    monkeypatch.setattr("beear.search.ray_train_trial.remove_placement_group", remove)
    course = RayTrainTraining(shared(tmp_path), {}, "t")
    assert course.next() == (record(1), final)
    closing = threading.Thread(target=course.close)
    closing.start()
    assert final or removed.wait()
    assert closing.is_alive(), "it waits for the run, which has not ended"
    may_end.set()
    closing.join()
    assert ended.is_set() and removed.is_set() is not final and asked == [0]
