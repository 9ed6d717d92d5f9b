"""What a defense is to the engine: two calls an epoch, and a name in a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from beear.data.batch import DefenseBatch, OuterBatch
from beear.methods.entrapment import InnerResult
from beear.models.decoder import Decoder
from beear.parallel.base import Backend

if TYPE_CHECKING:
    # A machine with torch and transformers alone runs the methods, so what the configuration is made of stays out.
    from beear.config.schema import MethodConfig


@dataclass
class InnerCourse:
    """One placement's inner loop in one epoch, for the record. ``size``: largest norm in units of RMS * sqrt(D)."""

    placement: str
    result: InnerResult
    size: float


@dataclass
class MethodState:
    """What a method carries from epoch to epoch besides the weights: plain numbers, saved in checkpoints."""

    values: dict[str, float] = field(default_factory=dict)


class Method(Protocol):
    """A defense. The engine calls ``begin_epoch`` once and ``step`` for each outer batch."""

    state: MethodState

    @property
    def notes(self) -> list[str]:
        """What a person should know of how the work was done, a sentence each; grows as the run goes on."""
        ...

    def begin_epoch(self, batches: list[DefenseBatch], cools: bool) -> list[InnerCourse]:
        """Prepare an epoch, which attacks at full strength or ``cools`` down, on its fixed inner batches.

        Weights stay as they are.
        """
        ...

    def nothing_left(self, courses: list[InnerCourse], selection: list[DefenseBatch]) -> bool:
        """Say whether the epoch's inner loops found nothing more to remove, on their own and on selection rows."""
        ...

    def step(self, batch: OuterBatch) -> dict[str, float]:
        """Update the weights once and return the losses (nats) over the global batch."""
        ...


@dataclass(frozen=True)
class MethodParts:
    """What a method is built from. ``config`` is resolved: no auto field is left.

    ``micro_batch``: rows a worker computes at once in a removal step; None: its whole share.
    """

    decoder: Decoder
    backend: Backend
    config: MethodConfig
    seed: int
    hidden_size: int
    micro_batch: int | None = None
