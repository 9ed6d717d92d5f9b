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
class Board:
    """Holds events until the driver takes them."""

    def __init__(self) -> None:
        """Start empty."""
        self._events: list[Event] = []
        self._failed = False

    def post(self, event: Event) -> None:
        """Add an event."""
        self._failed |= event["kind"] == "fault"
        self._events.append(event)

    def failed(self) -> bool:
        """Say whether a fault was posted: a restarted worker then has nothing to do."""
        return self._failed

    def take(self) -> list[Event]:
        """Return what has come since the last call."""
        taken, self._events = self._events, []
        return taken


class EventLog:
    """Writes events to ``events.jsonl`` as they come, with the time of each (seconds since the epoch)."""

    def __init__(self, path: Path) -> None:
        """Append to ``path``, so that a resumed run keeps its history."""
        self._path, self._lock = path, threading.Lock()

    def write(self, event: Event) -> None:
        """Append one event."""
        with self._lock, self._path.open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **event}) + "\n")


class Relay:
    """A thread that takes events off the board and hands each to ``sink``; a context manager."""

    def __init__(self, board: Any, sink: Callable[[Event], None], every: float = 0.25) -> None:
        """Poll ``board`` every ``every`` seconds."""
        self._board, self._sink, self._every = board, sink, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Relay":
        """Start polling."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Deliver what is left and stop."""
        self._stop.set()
        self._thread.join()
        self._deliver()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._deliver()

    def _deliver(self) -> None:
        try:
            events = ray.get(self._board.take.remote(), timeout=10)
        except ray.exceptions.RayError:
            return
        for event in events:
            self._sink(event)
