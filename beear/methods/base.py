"""A defense at work on one worker, as the engine sees it. Imports neither torch nor pydantic: every method can be built on it.

What a method *is*, its fields, needs and words, is :class:`beear.methods.method.Method`.
"""

from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

S = TypeVar("S")


class InnerResult(Protocol):
    """What one inner loop did; :class:`beear.methods.entrapment.InnerResult` has it. Losses in nats, by step."""

    loss_unwanted: list[float]
    loss_safe: list[float]

    @property
    def steps(self) -> int:
        """Inner steps taken."""
        ...

    @property
    def crossing_step(self) -> int | None:
        """First step (1-based) at which the unwanted answer was the likelier one."""
        ...


@dataclass
class InnerCourse:
    """One inner loop of one epoch, for the record. ``size``: the perturbation's largest norm in units of RMS * sqrt(D)."""

    placement: str
    result: InnerResult
    size: float


@dataclass
class MethodState:
    """What a defense carries from epoch to epoch besides the weights: plain numbers, saved in checkpoints."""

    values: dict[str, float] = field(default_factory=dict)


class Defense(Protocol):
    """A method at work on one worker. The engine calls ``begin_epoch`` once an epoch and ``step`` for each outer batch."""

    state: MethodState

    @property
    def notes(self) -> list[str]:
        """What a reader should know of how the work was done, a sentence each; grows as the run goes on."""
        ...

    def begin_epoch(self, batches: list[Any], cools: bool) -> list[InnerCourse]:
        """Prepare an epoch on its fixed inner batches (:class:`beear.data.batch.DefenseBatch`); weights stay as they are.

        The epoch attacks at full strength, or ``cools`` down.
        """
        ...

    def nothing_left(self, courses: list[InnerCourse], selection: list[Any]) -> bool:
        """Say whether the epoch's inner loops found nothing more to remove, on their own and on selection rows."""
        ...

    def step(self, batch: Any) -> dict[str, float]:
        """Update the weights once by a :class:`beear.data.batch.OuterBatch`; return losses (nats) over the global batch."""
        ...


@dataclass(frozen=True)
class MethodParts(Generic[S]):
    """What a defense is built from.

    Args:
        decoder: the model as layers (:class:`beear.models.decoder.Decoder`).
        backend: the workers and their weights (:class:`beear.parallel.base.Backend`).
        settings: the method's own, resolved.
        training: what every method trains with (:class:`beear.config.resolve.ResolvedMethod`).
        seed: of every random draw.
        hidden_size: D.
        micro_batch: rows a worker computes at once in a removal step; None: its whole share.
    """

    decoder: Any
    backend: Any
    settings: S
    training: Any
    seed: int
    hidden_size: int
    micro_batch: int | None = None
