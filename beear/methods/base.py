"""What a defense is to the engine: two calls an epoch, and a name in a table."""

from dataclasses import dataclass, field
from typing import Protocol

from beear.config.schema import MethodConfig
from beear.data.batch import DefenseBatch, OuterBatch
from beear.methods.entrapment import InnerResult
from beear.models.decoder import Decoder
from beear.parallel.base import Backend


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
    """What a method is built from. ``config`` is resolved: no auto field is left."""

    decoder: Decoder
    backend: Backend
    config: MethodConfig
    seed: int
    hidden_size: int
