"""What a checkpoint's folder holds beside the weights: where the run had come to, its numbers and its epochs so far."""

import json
from pathlib import Path
from typing import Any

from beear.records.report import EpochRecord

STATE, WEIGHTS, HISTORY, EXPORT = "state.json", "weights", "history.json", "model"


def write_state(folder: Path, epoch: int, last: int, method: dict[str, float]) -> None:
    """Write the ``epoch`` done, the one that the run has come to end with, and the method's numbers."""
    (folder / STATE).write_text(json.dumps({"epoch": epoch, "last": last, "method": method}))


def read_state(folder: Path) -> dict[str, Any]:
    """Read what :func:`write_state` wrote."""
    state: dict[str, Any] = json.loads((folder / STATE).read_text())
    return state


def write_history(folder: Path, history: list[EpochRecord]) -> None:
    """Write the epochs so far beside a checkpoint's state."""
    (folder / HISTORY).write_text(json.dumps([record.model_dump(mode="json") for record in history]))


def read_history(folder: Path) -> list[EpochRecord]:
    """Read what :func:`write_history` wrote."""
    return [EpochRecord.model_validate(record) for record in json.loads((folder / HISTORY).read_text())]


def epoch_if_complete(folder: Path) -> int | None:
    """Return the epoch that a checkpoint was saved after, or None where a part of it is missing."""
    # Ray's own actors import this module too, and need no backend.
    from beear.parallel import training_state, zero_state

    try:
        state, history = read_state(folder), read_history(folder)
    except (OSError, ValueError):
        return None
    epoch: int = state["epoch"]
    exported = epoch != state["last"] or (folder / EXPORT / "config.json").exists()
    weights = training_state.complete(folder / WEIGHTS) or zero_state.complete(folder / WEIGHTS)
    return epoch if exported and len(history) == epoch and weights else None
