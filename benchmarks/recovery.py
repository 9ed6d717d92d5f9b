"""SIGKILL of a training worker and of the driver at random moments after the first epoch, against an undisturbed run."""

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.jobs import command, environment, numbers, run

TRIES, EPOCHS = 3, 4
ARGUMENTS = ("--method.epochs", str(EPOCHS), "--method.early_stop", "false", "--tracking.enabled", "false")
WORKER = "RayTrainWorker"


def measure(folder: Path) -> dict[str, Any]:
    """Return the undisturbed run's numbers and what every killed run ended with; cases done before are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    cache = folder.parent / "cache"
    calm = run(folder / "calm", *ARGUMENTS, cache=cache)
    if calm.report is None:
        raise RuntimeError(calm.said)
    expected = numbers(calm.report)
    draw = random.Random(0)
    killed = []
    for victim in ("worker", "driver"):
        for number in range(TRIES):
            kept, delay = folder / f"{victim}-{number}.json", draw.uniform(0.0, 6.0)
            if not kept.exists():
                kept.write_text(json.dumps(disturbed(kept.with_suffix(""), victim, delay, cache, expected)))
            killed.append(json.loads(kept.read_text()))
            print(killed[-1], flush=True)
    return {"code": calm.code, "killed": killed}


def disturbed(folder: Path, victim: str, delay: float, cache: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Run the job, kill ``victim`` ``delay`` seconds after the first epoch, and give the same command again.

    Raises:
        RuntimeError: there was nothing to kill.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job = subprocess.Popen(
        command("--output.dir", str(folder / "out"), *ARGUMENTS),
        env=environment(cache),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_epoch(folder, job)
    time.sleep(delay)
    victims = [psutil.Process(job.pid)] if victim == "driver" else workers_of(job.pid)
    if not victims:
        raise RuntimeError(f"{folder}: no {victim} was there to kill")
    for process in victims:
        process.send_signal(signal.SIGKILL)
    code = job.wait()
    again = run(folder, *ARGUMENTS, cache=cache)
    equal = again.report is not None and numbers(again.report) == expected
    repeated = repeated_epochs(folder)
    return {"victim": victim, "killed_code": code, "code": again.code, "equal": equal, "repeated_epochs": repeated}


def wait_for_epoch(folder: Path, job: "subprocess.Popen[bytes]", seconds: float = 300) -> None:
    """Wait until the run's events tell of a finished epoch."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and job.poll() is None:
        for path in folder.glob(".out.*.partial/events.jsonl"):
            if '"kind": "epoch"' in path.read_text():
                return
        time.sleep(0.05)


def workers_of(driver: int) -> list[psutil.Process]:
    """Return the training workers below a driver that started its own Ray; other runs' are left alone."""
    below = psutil.Process(driver).children(recursive=True)
    return [process for process in below if WORKER in _title(process)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def repeated_epochs(folder: Path) -> int:
    """Return how many times an epoch was told of beyond once."""
    events = [json.loads(line) for line in (folder / "out" / "events.jsonl").read_text().splitlines()]
    epochs = [event["record"]["epoch"] for event in events if event["kind"] == "epoch"]
    return len(epochs) - len(set(epochs))


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/results.md."""
    rows = [
        f"| {k['victim']} | {k['killed_code']} | {k['code']} | {'yes' if k['equal'] else 'NO'} | {k['repeated_epochs']} |"
        for k in result["killed"]
    ]
    return "\n".join(
        [
            "## Kills",
            "",
            f"SIGKILL at random moments after the first of {EPOCHS} epochs; then the same command again. Equal: the weights' "
            "digest, every hit count, losses and inner steps are those of the undisturbed run.",
            "",
            "| killed | exit code of that process | of the same command again | equal to the undisturbed run | epochs repeated |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
