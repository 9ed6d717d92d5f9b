"""Ray Train's folder of a run's checkpoints: mended before training, and asked for the epoch that a run resumes after.

Ray lists the complete checkpoints in a file of its own, and resumes by that list. It overwrites the file in place, so a
killed process may leave half of it.
"""

import shutil
from pathlib import Path
from typing import Any

from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _CheckpointManagerState

from beear.cluster.checkpoint import epoch_if_complete, read_state
from beear.files import write_text


def mend(folder: Path) -> str | None:
    """Remove interrupted uploads, and rebuild Ray's list where Ray would refuse it; then return a sentence that says so.

    No process of the run should be active: one that outlives a killed driver for a moment may list what is removed here.
    The next call mends that too.
    """
    snapshot, said = folder / CHECKPOINT_MANAGER_SNAPSHOT_FILENAME, None
    try:
        state = _listed(snapshot)
        listed = {result.checkpoint_dir_name for result in state.checkpoint_results} if state else set()
        if not all((folder / name).is_dir() for name in listed):
            raise ValueError("a listed checkpoint is gone")
    except ValueError:
        listed, said = _recovered(folder, snapshot)
    for path in folder.glob("checkpoint_*"):
        if path.is_dir() and path.name not in listed:
            shutil.rmtree(path)
    return said


def last_saved_epoch(folder: Path) -> int:
    """Return the epoch of the checkpoint that Ray Train resumes from, 0 where there is none; :func:`mend` comes first."""
    state = _listed(folder / CHECKPOINT_MANAGER_SNAPSHOT_FILENAME)
    if state is None or state.latest_checkpoint_result is None:
        return 0
    epoch: int = read_state(folder / state.latest_checkpoint_result.checkpoint_dir_name)["epoch"]
    return epoch


def _listed(snapshot: Path) -> Any:
    """Return Ray's list of checkpoints, None where there is none; raise ValueError where Ray could not read it itself."""
    return _CheckpointManagerState.model_validate_json(snapshot.read_bytes()) if snapshot.exists() else None


def _recovered(folder: Path, snapshot: Path) -> tuple[set[str], str]:
    # Ray names checkpoints by the time of their report.
    for path in sorted(folder.glob("checkpoint_*"), reverse=True):
        epoch = epoch_if_complete(path) if path.is_dir() else None
        if epoch is not None:
            _write(snapshot, path.name, epoch)
            return {path.name}, f"Ray's list of checkpoints was broken; training goes on after epoch {epoch}, the last saved"
    snapshot.unlink()
    return set(), "Ray's list of checkpoints was broken and no checkpoint is whole; training starts over"


def _write(snapshot: Path, name: str, epoch: int) -> None:
    """Write the list that holds the checkpoint ``name`` alone."""
    result = {"checkpoint_dir_name": name, "metrics": {"epoch": epoch}}
    state = _CheckpointManagerState(
        checkpoint_results=[result],
        checkpoint_report_indices=[0],
        latest_checkpoint_result=result,
        pending_training_results=[],
        pending_validation_specs=[],
        current_report_index=1,
        validated_checkpoint_dir_names=[],
        timed_out_validation_checkpoint_dir_names=[],
        failed_validation_checkpoint_dir_names=[],
    )
    write_text(snapshot, state.model_dump_json())
