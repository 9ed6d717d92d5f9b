"""What a run resumes from: trained weights and Adam's state by name, in one layout for all backends of torch.

torch.distributed.checkpoint reads a tensor in other pieces than it was written in, so a run may resume with another number
of workers or another backend. DeepSpeed alone has its own files (:mod:`beear.parallel.zero_state`).
"""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import FileSystemReader
from torch.optim import AdamW

from beear.errors import UserError
from beear.parallel.optimizer import with_state

INDEX = ".metadata"

# ``weights``: tensors by name; ``optimizer``: step, exp_avg and exp_avg_sq of each weight, by its name.
State = dict[str, Mapping[str, Tensor] | Mapping[str, Mapping[str, Tensor]]]


def state_of(trained: Mapping[str, nn.Parameter], optimizer: AdamW) -> State:
    """Return the tensors themselves (no copies), to write them or to read into them."""
    with_state(optimizer, trained.values())
    return layout({name: p.detach() for name, p in trained.items()}, {name: optimizer.state[p] for name, p in trained.items()})


def layout(weights: Mapping[str, Tensor], adam: Mapping[str, Mapping[str, Tensor]]) -> State:
    """Return ``weights`` and ``adam`` (step, exp_avg and exp_avg_sq of each weight), both by name, as one state."""
    return {"weights": dict(weights), "optimizer": {name: dict(state) for name, state in adam.items()}}


def write(state: State, folder: Path, alone: bool) -> None:
    """Write what this worker holds. Every worker calls it, with folders that may be merged later; or one ``alone`` does."""
    with _quiet():
        dcp.save(state, checkpoint_id=folder, no_dist=alone)


def read(state: State, folder: Path, alone: bool) -> None:
    """Read this worker's part into the tensors of ``state``. Every worker calls it, or one ``alone`` does.

    Raises:
        UserError: DeepSpeed wrote the folder.
    """
    check_writer(folder, INDEX)
    with _quiet():
        dcp.load(state, checkpoint_id=folder, no_dist=alone)


def complete(folder: Path) -> bool:
    """Say whether a backend of torch wrote ``folder`` and everything that its index names is there, in full length."""
    if not (folder / INDEX).exists():
        return False
    try:
        stored = FileSystemReader(folder).read_metadata().storage_data.values()
        return all((folder / part.relative_path).stat().st_size >= part.offset + part.length for part in stored)
    except (OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError):
        return False


def check_writer(folder: Path, index: str) -> None:
    """Make sure that the checkpoint has the file ``index``, which the backends of one kind write.

    Raises:
        UserError: it has not: a backend of the other kind wrote the checkpoint.
    """
    if not (folder / index).exists():
        raise UserError(
            "parallel.backend: this run's training so far was saved under deepspeed, or is to go on under it and was not; "
            "expected the backend it began with, or --fresh"
        )


def _quiet() -> warnings.catch_warnings:  # type: ignore[type-arg]
    """Silence the warning that there is no process group: one worker alone needs none."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)
