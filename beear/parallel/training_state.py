"""What a run goes on from: trained weights and Adam's state by name, in one layout for all backends of torch.

Written with torch.distributed.checkpoint, which reads a tensor in other pieces than it was written in; so a run goes on
with other workers, and under another backend. DeepSpeed alone keeps its own files (:mod:`beear.parallel.zero_state`).
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.optim import AdamW

from beear.errors import UserError
from beear.parallel.optimizer import with_state

INDEX = ".metadata"

State = dict[str, dict[str, Any]]


def state_of(trained: Mapping[str, nn.Parameter], optimizer: AdamW) -> State:
    """Return the tensors themselves, to write them or to read into them."""
    with_state(optimizer, trained.values())
    return layout({name: p.detach() for name, p in trained.items()}, {name: optimizer.state[p] for name, p in trained.items()})


def layout(weights: Mapping[str, Tensor], adam: Mapping[str, Mapping[str, Tensor]]) -> State:
    """Return ``weights`` and ``adam`` (step, exp_avg and exp_avg_sq of each weight), both by name, as they are filed."""
    return {"weights": dict(weights), "optimizer": {name: dict(state) for name, state in adam.items()}}


def write(state: State, folder: Path, alone: bool) -> None:
    """Write what this worker holds; every worker does, into folders that may be merged later, or one ``alone``."""
    with _quiet():
        dcp.save(state, checkpoint_id=folder, no_dist=alone)


def read(state: State, folder: Path, alone: bool) -> None:
    """Read into the tensors of ``state``, each worker its own part; every worker does, or one ``alone``.

    Raises:
        UserError: DeepSpeed wrote what is there.
    """
    check_writer(folder, INDEX)
    with _quiet():
        dcp.load(state, checkpoint_id=folder, no_dist=alone)


def check_writer(folder: Path, index: str) -> None:
    """Refuse a checkpoint whose ``index`` file is not there, since another kind of backend wrote it.

    Raises:
        UserError: that.
    """
    if not (folder / index).exists():
        raise UserError(
            "parallel.backend: this run's training so far was saved under deepspeed, or is to go on under it and was not; "
            "expected the backend it began with, or --fresh"
        )


def _quiet() -> warnings.catch_warnings:  # type: ignore[type-arg]
    """Keep quiet that there is no group, where none is wanted."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)
