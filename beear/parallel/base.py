"""What the engine and the methods ask of a parallel backend. Chosen once, in :mod:`beear.parallel.choose`."""

from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Backend(Protocol):
    """Weights, their optimizer and the workers that share them.

    Losses handed to ``backward`` are local sums over global counts, so gradients are **added** over the workers.
    """

    rank: int
    world: int
    device: torch.device

    def prepare(self, model: nn.Module, lr: float) -> nn.Module:
        """Take the model, place it, make its optimizer (AdamW, no weight decay); return the model to call."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of the local part of the loss."""
        ...

    def step(self, clip: float) -> float:
        """Add gradients over workers, clip their global norm to ``clip``, step, clear; return the norm before."""
        ...

    def reduce(self, value: Tensor) -> Tensor:
        """Return the sum of ``value`` over workers, the same on each."""
        ...

    def most(self, value: float) -> float:
        """Return the largest ``value`` over workers."""
        ...

    def gather(self, value: T) -> list[T]:
        """Return every worker's picklable ``value``, in rank order."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the trained weights and the optimizer's state, for a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        ...
