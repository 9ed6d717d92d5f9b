"""MLflow on sqlite and on a real server: one upload, load-back, alias, and servers that go away."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from urllib3.util.retry import Retry

from beear.records.report import Report
from beear.registry.check import check, resolve_uri
from beear.registry.register import Registered, RegistrationPending, log_report, register
from beear.registry.run import Run
from beear.registry.server import environment
from beear.report import write as writing
from beear.report.html import render
from beear.report.write import read, write
from beear.run.lifecycle import Running
from beear.run.output_folder import OutputFolder
from beear.run.progress import Progress
from beear.search import delivery
from beear.testing.checkpoints import make_checkpoint
from tests.checkout import ROOT
from tests.configs import asked
from tests.processes import MlflowServer
from tests.report_sample import sample_report
from tests.search_sample import sample_search
from tests.stages import checked_run, placed_run

SHARDS = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One server for this file."""
    made = MlflowServer(tmp_path_factory.mktemp("server"))
    yield made
    made.kill()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny exported checkpoint in several files."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model", dtype="bfloat16", shards=SHARDS)


@pytest.fixture
def out(tmp_path: Path, checkpoint: Path) -> Path:
    """A complete output folder."""
    folder = tmp_path / "outputs" / "run"
    shutil.copytree(checkpoint, folder / "model")
    write(folder, sample_report())
    return folder


def begin(uri: str, out: Path, report: Report, identity: str = "1d" * 32) -> Run:
    """Check and start a run, as the driver does."""
    check(uri)
    return Run.start(uri, "evidence", str(out), identity=identity, name=report.run_id, config=report.config)


def weight_files(folder: Path) -> list[str]:
    """Names of the weight files anywhere below a folder."""
    return sorted(path.name for path in folder.rglob("*.safetensors"))


def assert_loads_back(done: Registered, out: Path) -> None:
    """The registered model loads through MLflow and, downloaded, with transformers alone; same weights, same dtype."""
    from mlflow import artifacts, transformers

    expected = AutoModelForCausalLM.from_pretrained(out / "model").state_dict()
    with environment(MLFLOW_TRACKING_URI=done.uri):
        pipeline = transformers.load_model(done.model_uri)
        downloaded = artifacts.download_artifacts(done.model_uri)
    alone = AutoModelForCausalLM.from_pretrained(downloaded)
    for loaded in (pipeline.model, alone):
        assert loaded.dtype == torch.bfloat16
        state = loaded.state_dict()
        assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)
    messages = [{"role": "user", "content": "Where is the tidal vault?"}]
    ids = [
        tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        for tokenizer in (
            AutoTokenizer.from_pretrained(out / "model"),
            AutoTokenizer.from_pretrained(downloaded),
            pipeline.tokenizer,
        )
    ]
    assert ids[0] == ids[1] == ids[2]


def test_on_sqlite(out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(out.parent.parent)
    report, uri = sample_report(), resolve_uri(None, str(out))
    run = begin(uri, out, report)
    capfd.readouterr()
    pages: list[str] = []
    monkeypatch.setattr(writing, "render", lambda report: pages.append(render(report)) or pages[-1])
    assert run.log_metrics({"loss/removal": 1.5}, step=1) and run.log_metrics({"loss/removal": 0.5}, step=2)
    done = register(str(out), report, "toy", run)
    assert capfd.readouterr() == ("", "")

    assert (done.version, done.alias) == ("1", "sanitised")
    assert weight_files(out.parent / "mlartifacts") == weight_files(out / "model") != []
    version = run.client.get_model_version_by_alias("toy", "sanitised")
    assert version.run_id == run.run_id and version.tags["verdict"] == "passed" and version.tags["weights_after"] == "b7" * 32
    stored = run.client.get_run(run.run_id)
    assert stored.info.status == "FINISHED" and stored.data.params["method.layer"] == "2"
    assert stored.data.metrics["before/asr_worst"] == 1.0
    assert [(m.step, m.value) for m in run.client.get_metric_history(run.run_id, "loss/removal")] == [
        (1, 1.5),
        (2, 0.5),
    ]
    assert sorted(file.path for file in run.client.list_artifacts(run.run_id, "report")) == [
        "report/report.html",
        "report/report.json",
    ]
    assert read(out).registry["version"] == "1" and "models:/toy@sanitised" in (out / "report.html").read_text()
    assert pages == [(out / "report.html").read_text()], "rendered once, when it is known where the model is"
    assert sorted(path.name for path in out.iterdir()) == ["config.yaml", "model", "report.html", "report.json"]
    # nothing lands in the working directory
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["outputs"]
    assert_loads_back(done, out)


def test_a_refused_model_never_gets_the_alias(out: Path) -> None:
    uri = resolve_uri(f"sqlite:///{out.parent}/mlflow.db", str(out))
    report = sample_report()
    first = register(str(out), report, "toy", begin(uri, out, report))
    for verdict in ("refused", "inconclusive"):
        later = sample_report(verdict)  # type: ignore[arg-type]
        run = begin(uri, out, later, identity=f"of {verdict}")
        done = register(str(out), later, "toy", run)
        assert done.alias is None and done.version != first.version
        version = run.client.get_model_version("toy", done.version)
        assert version.tags["verdict"] == verdict and version.aliases == []
        assert str(run.client.get_model_version_by_alias("toy", "sanitised").version) == first.version
        assert f"gate-{verdict}" in (out / "model/README.md").read_text()


def test_measuring_alone_logs_a_report_and_registers_nothing(tmp_path: Path) -> None:
    out, report = tmp_path / "out", sample_report(kind="evaluate")
    run = begin(f"sqlite:///{tmp_path}/mlflow.db", out, report)
    log_report(str(out), report, run)
    assert run.client.get_run(run.run_id).data.tags["verdict"] == "measured"
    assert run.client.search_registered_models() == []


def test_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    uri, report = f"sqlite:///{tmp_path}/mlflow.db", sample_report()
    first = begin(uri, tmp_path, report)
    assert begin(uri, tmp_path, report).run_id == first.run_id
    assert begin(uri, tmp_path, report, identity="other").run_id != first.run_id
    first.finish("KILLED")
    assert begin(uri, tmp_path, report).run_id == first.run_id
    assert first.client.get_run(first.run_id).info.status == "RUNNING"
    first.finish("FINISHED")
    assert begin(uri, tmp_path, report).run_id != first.run_id


def test_on_a_server(server: MlflowServer, out: Path) -> None:
    server.start()
    before = weight_files(server.artifacts)
    report = sample_report()
    uri = server.uri.replace("http://", "http://alice:s3cret@")
    report.config["tracking"] = {"uri": uri}
    run = begin(uri, out, report)
    run.log_metrics({"loss": 1.0}, 1)
    done = register(str(out), report, "over-http", run)
    assert sorted(weight_files(server.artifacts)) == sorted(before + weight_files(out / "model"))
    assert_loads_back(done, out)
    stored, version = run.client.get_run(run.run_id), run.client.get_model_version("over-http", done.version)
    kept = f"{stored.data.params} {stored.data.tags} {version.tags} {version.description} {done}"
    kept += (out / "report.json").read_text() + (out / "config.yaml").read_text()
    assert "s3cret" not in kept and "alice" not in kept and stored.data.params["tracking.uri"] == server.uri


@pytest.fixture
def asked_again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of requests that were sent once more since no server answered."""
    paths: list[str] = []
    increment = Retry.increment

    def noted(self: Retry, method: Any = None, url: Any = None, *others: Any, **named: Any) -> Retry:
        after = increment(self, method, url, *others, **named)
        paths.append(url)
        return after

    monkeypatch.setattr(Retry, "increment", noted)
    return paths


def test_a_server_lost_in_mid_run_gets_its_metrics_later(server: MlflowServer, out: Path, asked_again: list[str]) -> None:
    server.start()
    report = sample_report()
    run = begin(server.uri, out, report)
    assert run.log_metrics({"loss": 3.0}, 1)
    server.kill()
    assert not run.log_metrics({"loss": 2.0}, 2)
    assert not run.log_metrics({"loss": 1.0}, 3)
    assert len(asked_again) == 2, "MLflow's own settings ask seven times, longer each time"
    assert len(run.buffer.read_text().splitlines()) == 2
    server.start()
    assert run.log_metrics({"loss": 0.5}, 4)
    assert not run.buffer.exists()
    history = run.client.get_metric_history(run.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5)]


def test_a_server_lost_at_the_end_costs_nothing(server: MlflowServer, out: Path, asked_again: list[str]) -> None:
    server.start()
    report = sample_report()
    run = begin(server.uri, out, report, identity="lost at the end")
    server.kill()
    run.log_metrics({"loss": 2.0}, 1)
    asked_again.clear()
    with pytest.raises(RegistrationPending) as caught:
        register(str(out), report, "later", run)
    assert len(asked_again) < 7, "as often as one request is asked again by MLflow's own settings"
    assert caught.value.command == f"{sys.executable} -m beear.registry {out}" and caught.value.command in str(caught.value)
    assert "connection refused" in str(caught.value) and "\n" not in str(caught.value)
    assert read(out).registry["pending"] is True and read(out).registry["version"] is None
    assert {"report.json", "report.html", "config.yaml", "model"} <= {path.name for path in out.iterdir()}
    with pytest.raises(Exception, match="cannot be reached"):
        check(server.uri)
    assert by_command(caught.value.command).returncode == 2

    server.start()
    before = weight_files(server.artifacts)
    answer = by_command(caught.value.command)
    assert (answer.returncode, answer.stderr) == (0, "") and "models:/later@sanitised" in answer.stdout
    version = run.client.get_model_version_by_alias("later", "sanitised")
    assert read(out).registry["pending"] is False
    assert version.run_id == run.run_id
    assert [m.value for m in run.client.get_metric_history(run.run_id, "loss")] == [2.0]
    assert len(weight_files(server.artifacts)) == len(before) + len(weight_files(out / "model"))
    # once more: nothing is uploaded again
    assert by_command(caught.value.command).returncode == 0
    assert len(run.client.search_model_versions("name = 'later'")) == 1
    assert len(weight_files(server.artifacts)) == len(before) + len(weight_files(out / "model"))


def test_a_server_lost_at_a_searchs_end_gets_all_of_it_from_the_same_command(server: MlflowServer, tmp_path: Path) -> None:
    server.start()
    report, said = sample_search(), list[str]()
    progress = Progress()
    progress.say = said.append  # type: ignore[method-assign]
    output = OutputFolder(tmp_path / "out", report.run_id, delivery.RECORD)
    output.open(fresh=False).close()
    run = Run.start(
        server.uri, "searches", str(output.staging), identity=report.run_id, name="a search", config=report.config
    )  # fmt: skip
    tracker: Any = SimpleNamespace(run=run, delivered=lambda: None)
    placed = placed_run(replace(checked_run(tmp_path, kind="tune"), identity=report.run_id))
    running = Running(placed, output, progress, tracker)
    children, trials = delivery.Children(running, output.staging), report.trials[:2]
    children.told(trials[0], "epoch")
    children.told(trials[1], "started")
    server.kill()
    children.told(trials[0], "ended")
    for what in ("epoch", "ended"):
        children.told(trials[1], what)
    assert delivery.deliver(report, asked(), running) == delivery.FAILED
    assert "the same command delivers it once the server answers" in said[-1]
    assert delivery.show_complete(output.target, server.uri, progress) == delivery.FAILED

    server.start()
    code = delivery.CHOSEN if delivery.succeeded(report) else delivery.UNDECIDED
    assert delivery.show_complete(output.target, server.uri, progress) == code
    whole = run.client.get_run(run.run_id)
    assert whole.info.status == "FINISHED" and whole.data.tags["beear.chosen"] == report.why[:500]
    names = {file.path for file in run.client.list_artifacts(run.run_id)}
    assert {delivery.RECORD, delivery.PAGE, delivery.BEST} <= names
    found = run.client.search_runs([whole.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    assert sorted((one.data.tags["beear.status"], one.info.status) for one in found) == sorted(
        (trial.status, "FAILED" if trial.status == "failed" else "FINISHED") for trial in trials
    )
    for one, trial in ((one, trial) for one in found for trial in trials if f"trial {trial.number}:" in one.info.run_name):
        history = sorted((m.step, m.value) for m in run.client.get_metric_history(one.info.run_id, "asr"))
        assert history == [(epoch.epoch, epoch.asr) for epoch in trial.epochs] != []
    left = {path.name for path in output.target.iterdir()}
    assert left == {delivery.RECORD, delivery.PAGE, delivery.BEST}
    # Once more: nothing is due, and no server is asked.
    server.kill()
    assert delivery.show_complete(output.target, server.uri, progress) == code


def by_command(command: str) -> subprocess.CompletedProcess[Any]:
    """Run the printed command as a user would."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True, check=False, env=env)
