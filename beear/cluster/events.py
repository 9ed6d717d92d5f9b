"""Events on their way from workers to the driver: progress, epochs and faults, as plain values."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from beear.errors import Fault

Event = dict[str, Any]


def fault_event(fault: Fault) -> Event:
    """Return a fault as an event."""
    return {"kind": "fault", "fault": asdict(fault)}


def fault_in(event: Event) -> Fault | None:
    """Return the fault that an event brings, None for any other event."""
    return Fault(**event["fault"]) if event["kind"] == "fault" else None


@ray.remote(num_cpus=0, max_restarts=0)
class EventQueue:
    """An actor that holds events until the driver takes them."""

    def __init__(self) -> None:
        """Start empty."""
        self._events: list[Event] = []
        self._failed = False

    def post(self, event: Event) -> None:
        """Add an event."""
        self._failed |= event["kind"] == "fault"
        self._events.append(event)

    def failed(self) -> bool:
        """Say whether a fault was posted: a restarted worker then stops at once."""
        return self._failed

    def take(self) -> list[Event]:
        """Return the events since the last call."""
        taken, self._events = self._events, []
        return taken


class EventLog:
    """Writes events to ``events.jsonl`` as they come, with the time of each (seconds since the epoch)."""

    def __init__(self, path: Path) -> None:
        """Append to ``path``, so that a resumed run keeps its history."""
        self._path = path

    def write(self, event: Event) -> None:
        """Append one event."""
        with self._path.open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **event}) + "\n")


class Relay:
    """A thread that takes events from the queue and hands each to ``sink``; a context manager."""

    def __init__(self, queue: Any, sink: Callable[[Event], None], every: float = 0.25) -> None:
        """Ask ``queue`` every ``every`` seconds."""
        self._queue, self._sink, self._every = queue, sink, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Relay":
        """Start polling."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Deliver the remaining events and stop."""
        self._stop.set()
        self._thread.join()
        self._deliver()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._deliver()

    def _deliver(self) -> None:
        try:
            events = ray.get(self._queue.take.remote(), timeout=10)
        except ray.exceptions.RayError:
            return
        for event in events:
            self._sink(event)
