"""What the Ray pipeline costs in the steady state: an epoch in a Ray Train worker beside one in a plain process.

``make evidence PART=orchestration`` writes the table and the JSON. Both do the same: entrap, remove, measure
selection rows. The pipeline also streams its rows through Ray Data, sends events, and reports a checkpoint each epoch. An
epoch lasts from one's end to the next's, so all of that counts; the first epoch, with whatever starts in it, does not.
"""

import time
import uuid
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.crew import Crew

MODEL, EPOCHS, PAIRS, LIMIT = "testbed:short-suffix", 4, 7, 0.05


def measure(folder: Path, pairs: int = PAIRS, epochs: int = EPOCHS) -> dict[str, Any]:
    """Return the seconds of each pair's epochs: ``ray`` and ``bare``."""
    from beear.cluster.capacity import Reservation
    from beear.cluster.connection import RaySession
    from beear.config.schema import ParallelConfig
    from benchmarks.training import testbed_training

    folder.mkdir(parents=True, exist_ok=True)
    training, _ = testbed_training(MODEL, _steady(epochs))
    reservation = Reservation(workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, data_cpus=0.5)
    found: dict[str, list[float]] = {"ray": [], "bare": []}
    with RaySession(ParallelConfig()) as session, Crew(1, bare, epochs) as crew:
        session.connect()
        for _ in range(pairs):
            found["ray"].append(through_ray(training, reservation, folder, epochs))
            found["bare"].append(_each(crew.run("fit")[0]))
            print({name: round(seconds[-1], 3) for name, seconds in found.items()}, flush=True)
    return {"epochs": epochs, "seconds": found}


def through_ray(training: Any, reservation: Any, folder: Path, epochs: int) -> float:
    """Train in a Ray Train worker and return the mean seconds of an epoch after the first."""
    from beear.cluster.training import train
    from beear.cluster.training_worker import WorkerSpec
    from beear.streams.datasets import StreamSpec

    # A run of a known name would resume.
    name = uuid.uuid4().hex
    stream = StreamSpec(training.plan, training.facts, epochs, reservation.data_cpus)
    ends: list[float] = []

    def sink(event: dict[str, Any]) -> None:
        if event["kind"] == "epoch":
            ends.append(event["time"])

    spec = WorkerSpec(training, stream, name)
    train(spec, reservation, folder / name, sink, max_failures=0, export=folder / f"{name}-model")
    return _each(ends)


def bare(_rank: int, _world: int, epochs: int) -> dict[str, Any]:
    """Return a plain process's work: train once, and tell when each epoch ended."""
    from beear.data.local import LocalBatches
    from beear.engine.session import Session
    from beear.parallel.choose import choose
    from beear.parallel.spread import Spread
    from benchmarks.training import testbed_training

    training, _ = testbed_training(MODEL, _steady(epochs))

    def fit() -> list[float]:
        ends: list[float] = []
        Session(training, choose(Spread("single", 1), "cpu"), LocalBatches).fit(lambda _: ends.append(time.time()))
        return ends

    return {"fit": fit}


def _steady(epochs: int) -> dict[str, Any]:
    """Return settings that make every epoch the same amount of work."""
    return {"method.epochs": epochs, "method.cool_epochs": 0, "method.early_stop": False, "method.inner_steps": 15}


def _each(ends: list[float]) -> float:
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def overheads(result: dict[str, Any]) -> list[float]:
    """Return the share by which an epoch through Ray takes longer, pair by pair, in order of size."""
    pairs = zip(result["seconds"]["ray"], result["seconds"]["bare"], strict=True)
    return sorted(ray / alone - 1 for ray, alone in pairs)


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/performance.md."""
    more, seconds = overheads(result), result["seconds"]
    return "\n".join(
        [
            "## Orchestration",
            "",
            f"An epoch on the built-in model (15 inner and 10 outer steps, selection rows measured) in a Ray Train worker of "
            f"one thread, and in a plain process of one thread: {len(more)} pairs in turns, {result['epochs'] - 1} epochs "
            "each after the first. The pipeline's includes streaming, events and the checkpoint.",
            "",
            "| | s an epoch, median (least–most) |",
            "|---|---|",
            *(
                f"| {words} | {median(seconds[name]):.2f} ({min(seconds[name]):.2f}–{max(seconds[name]):.2f}) |"
                for name, words in (("ray", "Ray pipeline"), ("bare", "plain process"))
            ),
            f"| overhead, within a pair | {100 * median(more):+.1f}% ({100 * more[0]:+.1f}% to {100 * more[-1]:+.1f}%); "
            f"limit {100 * LIMIT:.0f}% |",
            "",
        ]
    )
