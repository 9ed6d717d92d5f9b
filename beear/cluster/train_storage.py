"""Repairs Ray Train's folder of checkpoints before training: a killed process may leave it inconsistent.

Ray keeps a list of complete checkpoints in a file, which it overwrites in place, and resumes from that list.
"""

import shutil
from pathlib import Path
from typing import Any

from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _CheckpointManagerState

from beear.cluster.checkpoint import epoch_if_complete
from beear.files import write_text


def mend(folder: Path) -> str | None:
    """Remove incomplete uploads, and rebuild Ray's list where it cannot be read; return what was done in that case.

    No process of the run may be active.
    """
    snapshot, said = folder / CHECKPOINT_MANAGER_SNAPSHOT_FILENAME, None
    try:
        listed = _listed(snapshot)
    except ValueError:
        listed, said = _recovered(folder, snapshot)
    for path in folder.glob("checkpoint_*"):
        if path.is_dir() and path.name not in listed:
            shutil.rmtree(path)
    return said


def _listed(snapshot: Path) -> set[str]:
    """Return the checkpoints that Ray lists; raise ValueError where Ray could not read its list."""
    if not snapshot.exists():
        return set()
    state: Any = _CheckpointManagerState.model_validate_json(snapshot.read_bytes())
    return {result.checkpoint_dir_name for result in state.checkpoint_results}


def _recovered(folder: Path, snapshot: Path) -> tuple[set[str], str]:
    # Ray names checkpoints by the time of their report.
    for path in sorted(folder.glob("checkpoint_*"), reverse=True):
        epoch = epoch_if_complete(path) if path.is_dir() else None
        if epoch is not None:
            _write(snapshot, path.name, epoch)
            return {path.name}, f"Ray's list of checkpoints was broken off; training goes on after epoch {epoch}, the last saved"
    snapshot.unlink()
    return set(), "Ray's list of checkpoints was broken off and no checkpoint is whole; training starts over"


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
