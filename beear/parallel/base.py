"""What the engine and the methods ask of a parallel backend. Chosen once, in :mod:`beear.parallel.choose`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Source(Protocol):
    """Where a model's weights come from. A backend takes whichever of the two ways it can use, once."""

    def whole(self) -> nn.Module:
        """Return the model to train with all its weights, in float32 on the CPU, in evaluation mode."""
        ...

    def empty(self) -> nn.Module | None:
        """Return the same model with its weights on the meta device, or None where ``rows`` cannot serve it.

        Buffers that are computed, not read, are there. Weights that ``rows`` does not know (a fresh LoRA) are too.
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
    """A source that has the model already: for tests, and for models that are made and not read."""

    model: nn.Module

    def whole(self) -> nn.Module:
        """Return the model."""
        return self.model

    def empty(self) -> nn.Module | None:
        """Return None: its weights are there."""
        return None

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Never asked, since ``empty`` gives none."""
        raise NotImplementedError(name)


@dataclass(frozen=True)
class Settings:
    """How a backend works; ``config.parallel``, resolved. ``compute`` is the dtype of matrix products.

    ``gather_once``: sharded weights stay gathered within ``gathered()``. ``checkpoint``: activations of a layer are
    computed again in the backward pass. ``zero_stage`` is DeepSpeed's.
    """

    compute: torch.dtype = torch.float32
    zero_stage: int = 3
    offload: bool = False
    gather_once: bool = True
    checkpoint: bool = False


class Backend(Protocol):
    """Weights, their optimizer and the workers that share them.

    Losses handed to ``backward`` are local sums over global counts, so gradients are **added** over the workers.
    """

    name: str
    rank: int
    world: int
    device: torch.device

    @property
    def lockstep(self) -> bool:
        """Whether a forward pass now needs every other worker to make one too."""
        ...

    def prepare(self, source: Source, lr: float) -> nn.Module:
        """Take the model, place it, make its optimizer (AdamW, no weight decay); return the model to call."""
        ...

    def gathered(self) -> AbstractContextManager[None]:
        """Within the context weights do not change; where memory allows, they are whole on every worker.

        Every worker enters and leaves it.
        """
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of the local part of the loss; may be called several times before ``step``."""
        ...

    def step(self, clip: float) -> float:
        """Add gradients over workers, clip their global norm to ``clip``, step, clear; return the norm before."""
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
        says in what form each stays, so that a large model is never held twice. Nothing is gathered on a GPU but one
        weight at a time.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write this worker's share of the trained weights and the optimizer's state. Every worker calls it."""
        ...

    def load(self, folder: Path) -> None:
        """Take back what ``save`` wrote, by however many workers. Every worker calls it."""
        ...
