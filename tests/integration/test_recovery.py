"""Kills, workers and strangers: the same command finishes, and ends where the undisturbed run ends."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

from beear.run.output_folder import TRAINING
from beear.testing.checkpoints import make_adapter, make_checkpoint
from benchmarks.jobs import command as main_command
from benchmarks.jobs import numbers
from benchmarks.recovery import WORKER, processes_of, repeated_epochs, rows_after_resuming
from tests.integration.conftest import Run
from tests.integration.stranger import make_stranger, short_job
from tests.processes import lines_until, until

Arguments = Callable[[Path], list[str]]
TOGETHER = ["--parallel.backend=fsdp", "--parallel.workers=2", "--parallel.cpus_per_worker=0.5"]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stranger's folder."""
    return make_stranger(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def arguments(stranger: Path) -> Arguments:
    """The short job's arguments, for an output below a folder."""
    return lambda folder: short_job(stranger, folder / "out")


@pytest.fixture(scope="module")
def calm(command: Run, arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The undisturbed run's report."""
    folder = tmp_path_factory.mktemp("calm")
    process = command("sanitize", *arguments(folder), cwd=folder)
    assert process.returncode == 3, process.stdout + process.stderr
    return json.loads((folder / "out" / "report.json").read_text())


def test_a_stranger_goes_through_with_only_paths_given(calm: dict) -> None:
    assert calm["model"]["dtype"] == "bfloat16"
    assert len(calm["epochs"]) == 3
    assert calm["data"]["filled"]["unwanted_openings"] == 0
    filled = calm["data"]["filled"]
    assert filled["safe_by_model"] + filled["safe_configured"] == 60
    assert any("no probes were given" in line for line in calm["not_tested"])


def test_a_killed_driver_goes_on_where_its_run_was(
    calm: dict, arguments: Arguments, environment: dict[str, str], command: Run, tmp_path: Path
) -> None:
    job = begin(arguments(tmp_path), environment, tmp_path)
    until(lambda: saved(tmp_path), job)
    writers = [*processes_of(job.pid, WORKER), *processes_of(job.pid, "ray::TrainController")]
    job.send_signal(signal.SIGKILL)
    said = job.communicate()[0]
    # They outlive a driver for a moment, and would go on with the checkpoints that the next run takes over.
    psutil.wait_procs(writers)
    assert job.returncode == -signal.SIGKILL, said
    assert not (tmp_path / "out").exists()
    process = command("sanitize", *arguments(tmp_path), cwd=tmp_path)
    assert process.returncode == 3, process.stdout + process.stderr
    assert numbers(resumed_report(tmp_path)) == numbers(calm)


def test_a_killed_worker_is_replaced_and_ends_where_one_undisturbed_worker_ends(
    calm: dict, arguments: Arguments, command: Run, tmp_path: Path
) -> None:
    """Two workers share the weights; they add in another order than one that holds all."""
    killed, over = list[int](), threading.Event()

    def kill() -> None:
        while not saved(tmp_path):
            if over.wait(0.05):
                return
        worker = processes_of(os.getpid(), WORKER)[0]
        worker.kill()
        killed.append(worker.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        process = command("sanitize", *arguments(tmp_path), *TOGETHER, cwd=tmp_path)
    finally:
        over.set()
        killer.join()
    assert killed and process.returncode == 3, process.stdout + process.stderr
    report = resumed_report(tmp_path)
    for one, other in zip(report["epochs"], calm["epochs"], strict=True):
        for name, value in other["losses"].items():
            assert one["losses"][name] == pytest.approx(value, rel=1e-4), name
    assert report["after"]["anchor_nll"]["mean"] == pytest.approx(calm["after"]["anchor_nll"]["mean"], rel=1e-2)


def saved(folder: Path) -> list[Path]:
    """Return what Ray writes when the first epoch's checkpoint is in storage; what is told of an epoch comes before."""
    return [*folder.glob(f".out.*.partial/{TRAINING}/*/{CHECKPOINT_MANAGER_SNAPSHOT_FILENAME}")]


def resumed_report(folder: Path) -> dict:
    """Return the report of a run that resumed, which repeated one epoch at most and read no row of an earlier one."""
    assert repeated_epochs(folder) <= 1
    resumed = rows_after_resuming(folder)
    assert resumed and all(epoch > done for done, epoch, _ in resumed), resumed
    report: dict = json.loads((folder / "out" / "report.json").read_text())
    return report


def begin(arguments: list[str], environment: dict[str, str], folder: Path) -> "subprocess.Popen[str]":
    """Start the main job; what it says is one stream."""
    return subprocess.Popen(
        main_command(*arguments), env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize(("number", "stage"), [(signal.SIGTERM, "measuring the checkpoint"), (signal.SIGINT, "training")])
def test_interrupted_it_says_how_to_go_on(
    number: signal.Signals, stage: str, arguments: Arguments, environment: dict[str, str], tmp_path: Path
) -> None:
    def at_work() -> bool:
        if stage == "training":
            return any("started" in path.read_text() for path in tmp_path.glob(".out.*.partial/events.jsonl"))
        return bool(processes_of(job.pid, "ray::guarded"))

    job = begin(arguments(tmp_path), {**environment, "PYTHONUNBUFFERED": "1"}, tmp_path)
    said = lines_until(job, stage)
    # Past the line that tells of it, into the stage itself.
    until(at_work, job)
    job.send_signal(number)
    said += job.communicate()[0].splitlines(keepends=True)
    assert job.returncode == 130, "".join(said)
    assert said[-1] == "interrupted; run the same command again to resume\n"
    assert "Traceback" not in "".join(said)
    assert [path.name.startswith(".out.") for path in tmp_path.iterdir()] == [True]


def test_an_adapter_with_its_base_and_lora_training(stranger: Path, arguments: Arguments, command: Run, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "base")
    make_adapter(tmp_path / "adapter", tmp_path / "base")
    given = [a for a in arguments(tmp_path) if not a.startswith(("--model.path", "--method.epochs"))]
    mine = [f"--model.path={tmp_path / 'adapter'}", f"--model.base={tmp_path / 'base'}", "--adapter.kind=lora"]
    process = command("sanitize", *given, *mine, "--method.epochs=1", cwd=tmp_path)
    assert process.returncode == 3, process.stdout + process.stderr
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "model" / "adapter_config.json").exists()
