"""SIGKILL of a training worker and of the driver at random moments, against an undisturbed run.

Two parts: ``recovery`` with one plain worker, after the first epoch; ``kills`` with two workers that share the weights
(FSDP), at any moment of the training.
"""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.jobs import command, environment, numbers, run

WORKER = "RayTrainWorker"


@dataclass(frozen=True)
class Course:
    """Kills ``tries`` workers and as many drivers, up to ``within`` seconds after the first event of kind ``after``."""

    name: str
    arguments: tuple[str, ...]
    tries: int
    epochs: int
    after: str
    within: float
    words: str


_ALWAYS = ("--method.early_stop", "false", "--tracking.enabled", "false")

PLAIN = Course(
    name="Kills",
    arguments=("--method.epochs", "4", *_ALWAYS),
    tries=3,
    epochs=4,
    after="epoch",
    within=6.0,
    words="one worker, after the first of 4 epochs",
)

# Training is what is disturbed: measuring before and after is kept short.
SHARDED = Course(
    name="Kills under FSDP",
    arguments=(
        *("--parallel.backend", "fsdp", "--parallel.workers", "2", "--parallel.cpus_per_worker", "0.75"),
        *("--method.epochs", "4", "--method.inner_steps", "5", "--method.outer_steps", "5"),
        *("--evaluate.rows", "40", "--evaluate.resistance.enabled", "false", "--evaluate.drift_rows", "8"),
        *_ALWAYS,
    ),
    tries=10,
    epochs=4,
    after="started",
    within=0.0,
    words="two workers that share the weights (`fsdp`), at any moment of the 4 epochs",
)


def measure(folder: Path, course: Course = PLAIN) -> dict[str, Any]:
    """Return the undisturbed run's numbers and what every killed run ended with; cases done before are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    cache = folder.parent / "cache"
    calm = run(folder / "calm", *course.arguments, cache=cache)
    if calm.report is None:
        raise RuntimeError(calm.said)
    expected = numbers(calm.report)
    within = course.within or 0.95 * training_seconds(folder / "calm")
    draw = random.Random(0)
    killed = []
    for victim in ("worker", "driver"):
        for number in range(course.tries):
            kept, delay = folder / f"{victim}-{number}.json", draw.uniform(0.0, within)
            if not kept.exists():
                found = disturbed(kept.with_suffix(""), victim, delay, cache, expected, course)
                kept.write_text(json.dumps({**found, "delay": round(delay, 2)}))
            killed.append(json.loads(kept.read_text()))
            print(killed[-1], flush=True)
    return {"code": calm.code, "killed": killed, "seconds": round(within, 1)}


def measure_sharded(folder: Path) -> dict[str, Any]:
    """Return what :func:`measure` does for weights shared by two workers."""
    return measure(folder, SHARDED)


def disturbed(
    folder: Path, victim: str, delay: float, cache: Path, expected: dict[str, Any], course: Course = PLAIN
) -> dict[str, Any]:
    """Run the job, kill ``victim`` ``delay`` seconds after the course's event, and give the same command again.

    Raises:
        RuntimeError: there was nothing to kill.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job = subprocess.Popen(
        command("--output.dir", str(folder / "out"), *course.arguments),
        env=environment(cache),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(folder, job, course.after)
    time.sleep(delay)
    victims = [psutil.Process(job.pid)] if victim == "driver" else processes_of(job.pid, WORKER)[:1]
    if not victims:
        raise RuntimeError(f"{folder}: no {victim} was there to kill")
    for process in victims:
        process.send_signal(signal.SIGKILL)
    code = job.wait()
    again = run(folder, *course.arguments, cache=cache)
    equal = again.report is not None and numbers(again.report) == expected
    return {
        "victim": victim,
        "killed_code": code,
        "code": again.code,
        "equal": equal,
        "repeated_epochs": repeated_epochs(folder),
        "rows_again": sum(rows for done, epoch, rows in rows_after_resuming(folder) if epoch <= done),
    }


def wait_for(folder: Path, job: "subprocess.Popen[bytes]", kind: str) -> None:
    """Wait until the run's events tell of one of ``kind``: ``started`` or a finished ``epoch``."""
    until = time.monotonic() + 300
    while time.monotonic() < until and job.poll() is None:
        for path in folder.glob(".out.*.partial/events.jsonl"):
            if f'"kind": "{kind}"' in path.read_text():
                return
        time.sleep(0.05)


def training_seconds(folder: Path) -> float:
    """Return the time from the workers' start to the last epoch's end."""
    events = [json.loads(line) for line in (folder / "out" / "events.jsonl").read_text().splitlines()]
    began = next(event["time"] for event in events if event["kind"] == "started")
    return float(max(event["time"] for event in events if event["kind"] == "epoch") - began)


def processes_of(driver: int, title: str) -> list[psutil.Process]:
    """Return the processes below a driver that has a Ray of its own, whose titles hold ``title``."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [process] if title in " ".join(process.cmdline()) else []
    return found


def repeated_epochs(folder: Path) -> int:
    """Return how many times an epoch was told of beyond once."""
    events = [json.loads(line) for line in (folder / "out" / "events.jsonl").read_text().splitlines()]
    epochs = [event["record"]["epoch"] for event in events if event["kind"] == "epoch"]
    return len(epochs) - len(set(epochs))


def rows_after_resuming(folder: Path) -> list[tuple[int, int, int]]:
    """Return, for each epoch that a resumed run's tasks read: the epoch it was resumed after, the epoch, rows tokenised."""
    done, found = 0, []
    for line in (folder / "out" / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["kind"] == "started":
            done = event["resumed_after"]
        elif event["kind"] == "rows" and done:
            found.append((done, event["epoch"], event["encoded"]))
    return found


def markdown(result: dict[str, Any], course: Course = PLAIN) -> str:
    """Return the section of docs/results.md."""
    rows = []
    for k in result["killed"]:
        equal = "yes" if k["equal"] else "NO"
        again = k.get("rows_again", "not counted")
        rows.append(
            f"| {k['victim']}{moment(k)} | {k['killed_code']} | {k['code']} | {equal} | {k['repeated_epochs']} | {again} |"
        )
    return "\n".join(
        [
            f"## {course.name}",
            "",
            f"SIGKILL at random moments: {course.words}; then the same command again. Equal: the weights' "
            "digest, every hit count, losses and inner steps are those of the undisturbed run. The last column counts rows of "
            "epochs before the one it resumed with.",
            "",
            "| killed | exit code of that process | of the same command again | equal to the undisturbed run | epochs repeated "
            "| earlier rows tokenised again |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def markdown_sharded(result: dict[str, Any]) -> str:
    """Return the section of docs/results.md for weights shared by two workers."""
    return markdown(result, SHARDED)


def moment(killed: dict[str, Any]) -> str:
    """Return when it was killed, where that was kept."""
    return f", {killed['delay']:.1f} s in" if "delay" in killed else ""
