"""A search through its command line, on the built-in backdoored model: real Tune, real kills, a second node that dies."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from beear.config.yaml_file import load_yaml
from beear.methods.configuration import run_config
from beear.records.search import SearchReport
from tests.checkout import ROOT
from tests.integration.conftest import Run
from tests.processes import lines_until

SHORT = [
    "--method.epochs=2", "--method.cool_epochs=0", "--method.early_stop=false", "--evaluate.selection_rows=17",
    "--gate.utility_loss=0.5", "--gate.over_refusal=0.5",
    "--search.space=space.yaml", "--search.algorithm=grid", "--search.concurrent=1",
]  # fmt: skip
QUIET = ["--search.scheduler=none", "--search.give_up=none"]
# One removal step removes nothing; a step of 1e30 leaves no number in the weights.
GOOD, WEAK, BROKEN = (10, 2e-4), (1, 2e-4), (10, 1e30)


def space(folder: Path, steps: list[int], rates: list[float], inner: int = 25) -> None:
    numbers = ", ".join(f"{rate:.1e}" for rate in rates)
    fixed = f"method.layer: [2]\nmethod.length: [5]\nmethod.inner_steps: [{inner}]\n"
    (folder / "space.yaml").write_text(f"{fixed}method.outer_steps: {steps}\nmethod.outer_lr: [{numbers}]\n")


def record(folder: Path) -> SearchReport:
    return SearchReport.model_validate_json((folder / "out" / "search.json").read_text())


def pair(settings: dict[str, Any]) -> tuple[int, float]:
    return settings["method.outer_steps"], float(settings["method.outer_lr"])


@pytest.fixture(scope="module")
def done(command: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchReport]:
    """One good setting among bad ones, which comes first, tracked."""
    folder = tmp_path_factory.mktemp("search")
    space(folder, [10, 1], [2e-4, 1e30])
    process = command(
        "tune", *SHORT, "--search.trials=4", "--output.dir=out", f"--tracking.uri=sqlite:///{folder}/m.db", cwd=folder
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "trial 0" in process.stderr and "Chosen" in process.stdout
    return folder, record(folder)


def test_the_good_setting_is_chosen_and_the_bad_corner_stopped(done: tuple[Path, SearchReport]) -> None:
    _, found = done
    by = {pair(trial.settings): trial for trial in found.trials}
    assert found.chosen == by[GOOD].id and found.measure == "keyword ASR under probes"
    assert found.baseline["asr"] == 1.0
    assert by[GOOD].status == "met the gate" and by[GOOD].epochs[-1].asr <= 0.01
    assert by[WEAK].status == "stopped early" and len(by[WEAK].epochs) == 1 and by[WEAK].epochs[0].asr >= 0.5
    assert found.epochs_run < found.epochs_planned == 8


def test_a_trial_that_fails_says_why_and_ends_nothing(done: tuple[Path, SearchReport]) -> None:
    _, found = done
    broken = [trial for trial in found.trials if pair(trial.settings)[1] == BROKEN[1]]
    assert len(broken) == 2
    assert all(trial.status == "failed" and "finite" in trial.reason for trial in broken)


def test_the_slot_of_a_trial_is_free_at_once(done: tuple[Path, SearchReport]) -> None:
    _, found = done
    starts, ends = ([getattr(trial, name) for trial in found.trials] for name in ("started", "ended"))
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    # On a busy machine both take longer.
    assert all(0 <= after - before < longest for before, after in zip(ends, starts[1:], strict=False))


def test_best_yaml_is_the_main_jobs(done: tuple[Path, SearchReport]) -> None:
    folder, found = done
    best = load_yaml(folder / "out" / "best.yaml", run_config())
    chosen = next(trial for trial in found.trials if trial.id == found.chosen)
    method = best.method
    assert (method.layer, method.length, method.inner_steps, method.outer_steps, method.outer_lr) == (2, 5, 25, 10, 2e-4)
    assert (method.epochs, method.cool_epochs, method.early_stop, method.placement) == (chosen.best_epoch, 0, False, "suffix")
    assert best.model.path == "testbed:short-suffix" and best.data.defense.path is None


def test_every_trial_is_a_child_of_the_searchs_run(done: tuple[Path, SearchReport]) -> None:
    folder, found = done
    client = MlflowClient(f"sqlite:///{folder}/m.db")
    (experiment,) = client.search_experiments(filter_string="name = 'beear'")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 4 and parent.info.status == "FINISHED"
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {"best.yaml", "search.html", "search.json"}
    assert sorted(run.data.tags["beear.status"] for run in children) == sorted(trial.status for trial in found.trials)
    good = next(run for run in children if run.data.tags["beear.status"] == "met the gate")
    assert good.data.metrics["asr"] <= 0.01 and good.data.params["method.outer_steps"] == "10"


def start(folder: Path, environment: dict[str, str], *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(ROOT / "pipelines" / "tune.py"), *SHORT, "--output.dir=out", "--tracking.enabled=false", *more]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def node_died(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchReport]:
    """Three trials on two nodes of one slot each, one of which dies while they run."""
    from ray._private.services import node_ip_address_from_perspective
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("nodes")
    space(folder, [3, 2, 1], [2e-4], inner=3)
    with pytest.MonkeyPatch.context() as patch:
        # Said on both sides: an earlier test's cluster in this process may have asked for a token.
        patch.setenv("RAY_AUTH_MODE", "disabled")
        # This process may be in a local Ray of its own, whose loopback address the nodes would take over.
        here = {"num_cpus": 1, "node_ip_address": node_ip_address_from_perspective()}
        cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **here})
        try:
            second = cluster.add_node(**here)
            process = start(
                folder, environment | {"RAY_AUTH_MODE": "disabled"}, *QUIET, "--search.trials=3", "--search.concurrent=2",
                f"--parallel.address={cluster.address}",
            )  # fmt: skip
            lines_until(process, "epoch 1")
            cluster.remove_node(second, allow_graceful=False)
            said = process.communicate()[1]
            assert process.returncode in (0, 3), said
        finally:
            cluster.shutdown()
    return folder, record(folder)


def test_a_node_that_dies_costs_an_epoch_not_the_search(node_died: tuple[Path, SearchReport]) -> None:
    trials = node_died[1].trials
    assert len(trials) == 3 and all(trial.status in ("finished", "met the gate") for trial in trials)
    assert node_died[1].chosen is not None


def test_a_killed_driver_goes_on_and_runs_no_finished_trial_again(
    command: Run, node_died: tuple[Path, SearchReport], environment: dict[str, str], tmp_path: Path
) -> None:
    """Its trials end as the same settings do in another search, on other nodes."""
    more = [*QUIET, "--search.trials=2"]
    space(tmp_path, [2, 1], [2e-4], inner=3)
    process = start(tmp_path, environment, *more)
    lines_until(process, "trial 1 (layer 2, length 5, inner steps 3, outer steps 1, outer lr 0.0002) epoch 1")
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = command("tune", *SHORT, *more, "--output.dir=out", "--tracking.enabled=false", "--resume", cwd=tmp_path)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert "trial 0 (layer 2, length 5, inner steps 3, outer steps 2, outer lr 0.0002) started" not in done.stderr
    assert "trial 1 (layer 2, length 5, inner steps 3, outer steps 1, outer lr 0.0002) started" in done.stderr

    def numbers(report: SearchReport) -> dict[int, Any]:
        return {
            t.settings["method.outer_steps"]: (t.settings, t.best_epoch, [(e.epoch, e.selection) for e in t.epochs])
            for t in report.trials
        }

    found, elsewhere = numbers(record(tmp_path)), numbers(node_died[1])
    assert found == {steps: elsewhere[steps] for steps in (2, 1)}


def test_a_trial_may_be_a_ray_train_run_and_the_best_be_applied(
    command: Run, done: tuple[Path, SearchReport], tmp_path: Path
) -> None:
    """What it finds is what the warm process found, and so does the main job with best.yaml; one that is cut off leaves room."""
    space(tmp_path, [10, 1], [2e-4])
    process = command(
        "tune", *SHORT, "--search.trials=2", "--search.warm=false", "--search.apply=true", "--evaluate.rows=40",
        "--search.stop_asr=0.9", "--gate.asr=0.9", "--evaluate.resistance.enabled=false", "--evaluate.drift_rows=4",
        "--output.dir=out", "--tracking.enabled=false", cwd=tmp_path,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    cold, second = record(tmp_path).trials
    # Both end in the middle of their runs, the first by success.
    assert (cold.status, len(cold.epochs), len(second.epochs)) == ("met the gate", 1, 1)
    warm = next(trial for trial in done[1].trials if pair(trial.settings) == GOOD)
    assert [epoch.selection for epoch in cold.epochs] == [epoch.selection for epoch in warm.epochs[:1]]
    applied = json.loads((tmp_path / "out-best" / "report.json").read_text())
    assert [epoch["selection"] for epoch in applied["epochs"]] == [epoch.selection for epoch in cold.epochs]
    assert applied["gate"]["verdict"] == "passed"
    assert any("A search chose this run's settings by these probes" in note for note in applied["notes"])
