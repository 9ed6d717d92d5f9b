"""What the engine and the methods ask of a parallel backend, and what backends of several workers share.

:mod:`beear.parallel.choose` chooses a backend once per run.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


class Source(Protocol):
    """Where a model's weights come from: the whole model, or an empty one and its weights row by row.

    A backend loads once, in the way that it supports.
    """

    def whole(self) -> nn.Module:
        """Return the model to train with all its weights, in float32 on the CPU, in evaluation mode."""
        ...

    def empty(self) -> nn.Module | None:
        """Return the same model with its weights on the meta device, or None where ``rows`` cannot read them.

        Buffers that are computed hold their values, and so do weights that no file holds (a fresh LoRA).
        """
        ...

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop`` (along dimension 0) of the weight ``name`` of ``empty()``, in float32.

        Raises:
            UserError: they are not finite.
        """
        ...


@dataclass(frozen=True)
class Whole:
    """A source for a model that is in memory already, as in tests."""

    model: nn.Module

    def whole(self) -> nn.Module:
        """Return the model."""
        return self.model

    def empty(self) -> nn.Module | None:
        """Return None: the weights are in memory."""
        return None

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Fail: backends call it only where ``empty`` returns a model."""
        raise NotImplementedError(name)


class Backend(Protocol):
    """Weights, their optimizer and the workers that share them. ``rank`` of ``world`` workers computes on ``device``.

    Losses handed to ``backward`` are local sums over global counts, so gradients are **added** over the workers.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def lockstep(self) -> bool:
        """Whether a forward pass now needs every other worker to make one too."""
        ...

    def prepare(self, source: Source, lr: float) -> nn.Module:
        """Load the model onto the device, make its optimizer (AdamW, no weight decay); return the model to call."""
        ...

    def gathered(self) -> AbstractContextManager[None]:
        """Return a context in which weights must not change, and are whole on every worker where memory allows.

        Every worker enters and leaves it.
        """
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of this worker's part of the loss; may be called several times before ``step``."""
        ...

    def step(self, clip: float) -> float:
        """Add gradients over workers, clip their global norm to ``clip``, step, clear; return the norm before clipping."""
        ...

    def reduce(self, value: Tensor) -> Tensor:
        """Return the sum of ``value`` over workers, the same on each."""
        ...

    def max(self, value: float) -> float:
        """Return the largest ``value`` over workers."""
        ...

    def gather(self, value: T) -> list[T]:
        """Return every worker's picklable ``value``, in rank order."""
        ...

    def full_state(self, keep: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor] | None:
        """Return the whole weights on the first worker's CPU, None on the others. Every worker calls it.

        Names are those that the model of ``prepare`` has on one worker (a LoRA is not merged); ``keep(name, tensor)``
        returns each in the form to keep, so that a large model is never held twice. A GPU gathers one weight at a time.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write this worker's share of the trained weights and the optimizer's state. Every worker calls it."""
        ...

    def load(self, folder: Path) -> None:
        """Load what ``save`` wrote, also by another number of workers. Every worker calls it."""
        ...


class Group:
    """Sums, maxima and lists over workers in the torch.distributed group that the caller has set up (gloo or nccl)."""

    def __init__(self, device: torch.device) -> None:
        """Read rank and world from the process group; what is sent is put on ``device``."""
        self.device = device
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def reduce(self, value: Tensor) -> Tensor:
        """Return the sum over workers."""
        total = value.clone()
        dist.all_reduce(total)
        return total

    def max(self, value: float) -> float:
        """Return the maximum over workers."""
        top = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(top, op=dist.ReduceOp.MAX)
        return float(top)

    def gather(self, value: T) -> list[T]:
        """Return every worker's value, in rank order."""
        values = [value] * self.world
        dist.all_gather_object(values, value)
        return values
