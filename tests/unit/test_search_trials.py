"""The parts of a search that need no cluster: what is tried, what is kept of trials, and what the best configuration is."""

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import FIFOScheduler, MedianStoppingRule

from beear.cluster.checkpoint import write_history
from beear.commands.tune import uses_probes
from beear.config.schema import GateConfig
from beear.config.search import SearchConfig
from beear.errors import UserError
from beear.evaluation.trials import Yardstick
from beear.parallel.spread import Spread
from beear.records.report import EpochRecord
from beear.records.search import Trial, TrialEpoch
from beear.run.identity import config_digest
from beear.run.stages import Placed
from beear.search import experiment, strategy
from beear.search.asha import Asha
from beear.search.monitor import LISTENING, Monitor, kept_trials
from beear.search.outcome import best_config, search_report
from beear.search.ray_train_trial import RayTrainTraining
from beear.search.shared import Shared, with_settings
from beear.search.space import Between, OneOf, Space
from beear.search.trial import InProcessRun
from tests.configs import asked, asked_search
from tests.stages import checked_run, placed_run


def shared(placed: Placed) -> Shared:
    return Shared(placed, Yardstick({}, 30, GateConfig(), 0.95, 0.01), placed.checked.asked.output.dir, probes=True)


SPACE = Space("mine", {"method.layer": OneOf(1, 2, 3), "method.length": OneOf(3, 5), "method.inner_steps": OneOf(None, 30)})


def epoch(number: int, asr: float = 0.0, within: bool = True, cooled: bool = False) -> TrialEpoch:
    return TrialEpoch(
        epoch=number, asr=asr, asr_high=asr + 0.1, utility=0.9, utility_loss=0.0, over_refusal_rise=0.0, composite=0.9,
        within_limits=within, cooled=cooled, seconds=1.0,
    )  # fmt: skip


def test_settings_are_drawn_once_each_and_the_same_for_a_seed() -> None:
    search = SearchConfig(trials=8)
    drawn = strategy.settings_to_try(SPACE, search, 3)
    assert len({json.dumps(one) for one in drawn}) == 8
    assert drawn == strategy.settings_to_try(SPACE, search, 3) != strategy.settings_to_try(SPACE, search, 4)
    assert len(strategy.settings_to_try(SPACE, SearchConfig(trials=99), 0)) == 12
    wide = Space("wide", {"method.outer_lr": Between(1e-5, 1e-3, log=True)})
    rates = [one["method.outer_lr"] for one in strategy.settings_to_try(wide, search, 0)]
    assert len(set(rates)) == 8 and all(1e-5 <= rate <= 1e-3 for rate in rates)


def test_a_grid_larger_than_its_trials_is_spread_over_every_field() -> None:
    found = strategy.settings_to_try(SPACE, SearchConfig(algorithm="grid", trials=6), 0)
    assert {one["method.layer"] for one in found} == {1, 2, 3}
    assert strategy.settings_to_try(SPACE, SearchConfig(algorithm="grid", trials=50), 0) == SPACE.grid()


@pytest.mark.parametrize(("name", "kind"), [("asha", Asha), ("median", MedianStoppingRule), ("none", FIFOScheduler)])
def test_schedulers_go_by_our_own_epoch(name: Any, kind: type) -> None:
    found = strategy.scheduler(SearchConfig(scheduler=name, grace_epochs=9), 4)
    assert type(found) is kind
    assert getattr(found, "_time_attr", "epoch") == "epoch"


def test_a_trial_that_came_first_is_held_to_what_others_reach_later() -> None:
    found: Any = strategy.scheduler(SearchConfig(), 6)
    first, second, third = (SimpleNamespace(trial_id=name) for name in "abc")
    for trial in (first, second, third):
        found.on_trial_add(None, trial)

    def said(trial: Any, epoch: int, objective: float) -> str:
        return str(found.on_trial_result(None, trial, {"epoch": epoch, "objective": objective}))

    assert said(first, 1, 1.5) == "CONTINUE"
    assert said(second, 1, 0.4) == "CONTINUE"
    assert said(first, 2, 1.5) == "CONTINUE", "nobody else is on its last rung yet"
    assert said(second, 2, 0.1) == "CONTINUE"
    assert said(first, 3, 1.5) == "STOP"
    # What has become better than the others were there goes on.
    assert said(first, 3, 0.1) == "CONTINUE"
    # Alone at the top, or as good as the others, it goes on.
    assert said(second, 3, 0.1) == said(second, 4, 0.1) == said(second, 5, 0.1) == "CONTINUE"
    assert said(third, 1, 0.4) == said(third, 2, 0.1) == said(third, 3, 0.1) == "CONTINUE"


@pytest.mark.parametrize(
    ("warm", "workers", "backend", "shares"),
    [(True, 1, "single", True), (True, 2, "ddp", False), (False, 1, "single", False), (True, 1, "fsdp", False)],
)
def test_trials_of_one_worker_with_whole_weights_share_processes(
    warm: bool, workers: int, backend: str, shares: bool, tmp_path: Path
) -> None:
    placed = placed_run(checked_run(tmp_path, {"parallel.workers": workers}, "tune"), Spread(backend, workers), gpus=0.25)
    assert experiment.shares_processes(shared(placed), SearchConfig(warm=warm)) is shares
    held = experiment.resources_of(placed.reservation, shares).bundles[0]
    assert held == ({"CPU": 1.0, "GPU": 0.25} if shares else {"CPU": 0.01})


def test_a_trials_settings_are_checked_as_the_users_own() -> None:
    values = asked().model_dump(mode="json")
    changed: Any = with_settings(values, {"method.layer": 3, "method.inner_steps": None, "method.outer_lr": 1e-4})
    assert (changed.method.layer, changed.method.inner_steps, changed.method.outer_lr) == (3, None, 1e-4)
    assert values["method"]["layer"] is None
    searched = asked_search({"search.trials": 3}).model_dump(mode="json")
    assert with_settings(searched, {"method.layer": 3}).method.layer == 3, "what a search adds is no part of a trial's run"
    with pytest.raises(UserError, match=r"search.space: method.length is 0"):
        with_settings(values, {"method.length": 0})


def test_the_best_configuration_fixes_what_the_trial_did_until_its_epoch() -> None:
    epochs = [epoch(1), epoch(2), epoch(3, cooled=True), epoch(4, cooled=True)]
    trial = Trial(
        id="a", number=1, settings={"method.layer": 2}, status="finished", epochs=epochs, best_epoch=3, planned_epochs=6
    )
    best: Any = best_config(asked({"output.fresh": True}), trial, "/somewhere", by_probes=True)
    assert best.data.probes.chose_settings and not best.output.fresh
    method = best.method
    assert (method.layer, method.epochs, method.cool_epochs, method.early_stop) == (2, 3, 1, False)


@pytest.mark.parametrize(("stop", "limits"), [(0.01, {"asr": 0.01}), (None, {})])
def test_a_search_that_no_asr_ends_has_a_record_too(stop: float | None, limits: dict[str, float], tmp_path: Path) -> None:
    placed = placed_run(checked_run(tmp_path, kind="tune"))
    data = replace(placed.data, selection=placed.data.selection[:1] * 30, anchor_selection=placed.data.anchor_selection[:1] * 200)
    placed, gate = replace(placed, data=data), placed.checked.config.gate
    trial = Trial(
        id="a", number=0, settings={"method.outer_lr": None}, status="finished", epochs=[epoch(1)], best_epoch=1,
        planned_epochs=2,
    )  # fmt: skip
    found = search_report(placed, SearchConfig(stop_asr=stop), SPACE, [trial], {"asr": 1.0}, None, 2, 3.0)
    assert found.limits == {**limits, "utility_loss": gate.utility_loss, "over_refusal_rise": gate.over_refusal}
    assert found.rows == {"defense": 30, "anchor": 128} and found.model["path"] == "testbed:short-suffix"
    # A learning rate that is left to the model's size is auto; only inner steps are calibrated.
    assert found.chosen == "a" and found.why.startswith("trial 0 (outer lr auto): ASR at most 10.0% under the probes")


def tuned(number: int, **result: Any) -> Any:
    return SimpleNamespace(
        trial_id=f"abc{number}", config={"settings": {"method.layer": number}}, last_result=result, error_file=None,
        storage=SimpleNamespace(trial_fs_path="/nowhere"),
    )  # fmt: skip


def told(watch: Monitor, *epochs: TrialEpoch, number: int = 0, **result: Any) -> None:
    given = {"epochs": [one.model_dump() for one in epochs], "began": 10.0, "failed": "", "mistake": False, "met": False}
    given |= result
    watch.on_trial_result(0, [], tuned(number), given)


def test_a_watch_keeps_every_trial_and_how_it_ended(tmp_path: Path) -> None:
    path, heard = tmp_path / "trials.json", []
    LISTENING[str(path)] = lambda trial, what: heard.append((trial.number, what))
    watch = Monitor(path, planned=4)
    watch.setup()
    for number in range(4):
        watch.on_trial_start(0, [], tuned(number))
    told(watch, epoch(1, within=False), epoch(2), number=0, through=True)
    watch.on_trial_complete(0, [], tuned(0, through=True))
    told(watch, epoch(1, asr=1.0), number=1)
    watch.on_trial_complete(0, [], tuned(1, through=False))
    told(watch, epoch(1), number=2, met=True)
    watch.on_trial_complete(0, [], tuned(2))
    told(watch, number=3, failed="the loss is not finite")
    watch.on_trial_recover(0, [], tuned(3))
    watch.on_trial_complete(0, [], tuned(3))
    del LISTENING[str(path)]
    found = kept_trials(path)
    assert [(t.status, t.best_epoch) for t in found] == [
        ("finished", 2), ("stopped early", 1), ("met the gate", 1), ("failed", None)
    ]  # fmt: skip
    assert found[3].reason == "the loss is not finite" and found[3].restarts == 1
    assert all(t.ended and t.started and t.planned_epochs == 4 for t in found)
    assert heard[:2] == [(0, "started"), (1, "started")]
    again = Monitor(path, planned=4)
    again.setup()
    again.on_trial_start(0, [], tuned(4))
    assert [t.number for t in kept_trials(path)] == [0, 1, 2, 3, 4]


def test_a_trial_that_was_given_up_says_so(tmp_path: Path) -> None:
    watch = Monitor(tmp_path / "trials.json", planned=4)
    watch.setup()
    watch.on_trial_start(0, [], tuned(0))
    told(watch, epoch(1, asr=1.0), epoch(2, asr=1.0), hopeless=True)
    watch.on_trial_complete(0, [], tuned(0, through=False))
    (found,) = kept_trials(tmp_path / "trials.json")
    assert (found.status, found.reason) == (
        "stopped early", "after epoch 2 of 4: next to nothing of what was there was removed"
    )  # fmt: skip


def test_how_many_run_and_where_is_no_part_of_a_searchs_identity() -> None:
    def digest(**search: Any) -> str:
        return config_digest(asked_search({f"search.{name}": value for name, value in search.items()}).model_dump(mode="json"))

    assert digest() == digest(concurrent=3, warm=False, apply=True) != digest(trials=17)


@pytest.mark.parametrize(
    ("measure", "given", "uses"), [("auto", True, True), ("auto", False, False), ("resistance", True, False)]
)
def test_probes_are_used_where_there_are_any_and_nothing_else_is_asked(measure: Any, given: bool, uses: bool) -> None:
    assert uses_probes(SearchConfig(measure=measure), given) is uses
    with pytest.raises(UserError, match="search.measure is probes and no probes are given"):
        uses_probes(SearchConfig(measure="probes"), False)


class Failing:
    """A training whose second epoch breaks."""

    history: list[Any] = []

    def __init__(self, error: Exception) -> None:
        self._error = error

    def next(self) -> Any:
        raise self._error


@pytest.mark.parametrize(("error", "sentence"), [(FloatingPointError("the loss is not finite"), "the loss is not finite"),
                                                 (UserError("row 3 is bad"), "row 3 is bad")])  # fmt: skip
def test_a_mistake_ends_a_trial_with_its_reason_and_a_crash_is_left_to_tune(
    error: Exception, sentence: str, tmp_path: Path
) -> None:
    placed = placed_run(checked_run(tmp_path, kind="tune"))

    class Begun(InProcessRun):
        def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
            super().setup(config, shared(placed))

    trial: Any = Begun({})
    trial.course = Failing(error)
    said = trial.step()
    assert (said["failed"], said["done"], said["objective"], said["epochs"]) == (sentence, True, 5.0, [])
    assert said["mistake"] is isinstance(error, UserError)
    trial.failed, trial.course = "", Failing(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        trial.step()


def test_a_cold_training_knows_every_epoch_whoever_missed_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    records = [EpochRecord(epoch=number) for number in (1, 2, 3)]
    plain = [one.model_dump(mode="json") for one in records]

    def train(_spec: Any, _reservation: Any, _storage: Path, sink: Any, max_failures: int) -> list[EpochRecord]:
        # The run has stored epochs 1 and 2, of which Tune has seen the first.
        sink({"kind": "started", "history": plain[:2], "group": None})
        sink({"kind": "epoch", "record": plain[2], "final": True})
        return records

    monkeypatch.setattr("beear.search.ray_train_trial.train", train)
    course = RayTrainTraining(shared(placed_run(checked_run(tmp_path, kind="tune"))), {}, "t")
    write_history(tmp_path, records[:1])
    course.resume(tmp_path)
    record, final = course.next()
    assert (record.epoch, final) == (3, True)
    assert [one.epoch for one in course.history] == [1, 2, 3]


def test_refusing_everything_is_no_success_to_be_guided_by() -> None:
    yard = Yardstick({}, 10, GateConfig(), 0.95, 0.01)
    mute = epoch(1).model_copy(update={"utility_loss": 0.9, "over_refusal_rise": 1.0})
    attacking = epoch(1).model_copy(update={"utility_loss": 0.1})
    assert yard.objective(attacking) == pytest.approx(0.08)
    assert yard.objective(attacking) < yard.objective(epoch(1, asr=1.0)) < yard.objective(mute)
    assert yard.success(epoch(1)) and not replace(yard, stop_asr=None).success(epoch(1))


def test_samples_of_a_space_are_configurations() -> None:
    draw = random.Random(0)
    for _ in range(20):
        with_settings(asked().model_dump(mode="json"), SPACE.sample(draw))
