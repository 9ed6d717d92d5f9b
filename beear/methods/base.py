"""What the engine and a defense on one worker give each other. Imports neither torch nor pydantic.

:class:`beear.methods.method.Method` describes a method: its fields, its needs and its words for the report.
"""

from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

S = TypeVar("S")


@dataclass
class InnerResult:
    """What one inner loop did. Losses in nats by step, each the mean over that step's global batch."""

    loss_unwanted: list[float] = field(default_factory=list)
    loss_safe: list[float] = field(default_factory=list)
    crossed: bool = False

    @property
    def steps(self) -> int:
        """Inner steps taken."""
        return len(self.loss_unwanted)

    @property
    def crossing_step(self) -> int | None:
        """First step (1-based) at which the unwanted answer was likelier than the safe one, or None."""
        pairs = zip(self.loss_unwanted, self.loss_safe, strict=True)
        return next((i for i, (unwanted, safe) in enumerate(pairs, 1) if unwanted < safe), None)


@dataclass
class InnerCourse:
    """One inner loop of one epoch, for the report. ``size``: the largest norm of a vector, in units of RMS * sqrt(D)."""

    placement: str
    result: InnerResult
    size: float


@dataclass
class MethodState:
    """Numbers that a defense keeps between epochs besides the weights. They are saved in checkpoints."""

    values: dict[str, float] = field(default_factory=dict)


class Defense(Protocol):
    """A method on one worker. The engine calls ``begin_epoch`` once in each epoch, then ``step`` for each outer batch."""

    state: MethodState

    @property
    def notes(self) -> list[str]:
        """Sentences for the report about how the work was done. The list may grow during the run."""
        ...

    def begin_epoch(self, batches: list[Any], cools: bool) -> list[InnerCourse]:
        """Prepare an epoch on its fixed inner batches (:class:`beear.data.batch.DefenseBatch`). Weights do not change.

        ``cools``: the epoch is a cooling one, which should give back utility instead of entrapping at full strength.
        """
        ...

    def nothing_left(self, courses: list[InnerCourse], selection: list[Any]) -> bool:
        """Return True if nothing is left to remove, after which training cools down and ends; False if the method cannot tell.

        Not asked in the first epoch nor in a cooling one. ``courses``: what ``begin_epoch`` returned. ``selection``: batches of
        selection rows.
        """
        ...

    def step(self, batch: Any) -> dict[str, float]:
        """Update the weights once on a :class:`beear.data.batch.OuterBatch`.

        Return the losses over the global batch, and ``gradient_norm``. They are shown as nats. A method with a loss of its own
        calls ``backend.backward`` for each part of it, then ``backend.step`` once (see :mod:`beear.methods.removal`).
        """
        ...


@dataclass(frozen=True)
class MethodParts(Generic[S]):
    """What a defense is built from.

    Args:
        decoder: the model as layers (:class:`beear.models.decoder.Decoder`).
        backend: the workers and their weights (:class:`beear.parallel.base.Backend`).
        settings: the method's own settings, resolved.
        training: the settings that every method has (:class:`beear.config.resolve.ResolvedMethod`).
        seed: seed of every random draw.
        hidden_size: D.
        micro_batch: most rows that a worker computes at once in a removal step; None: its whole share.
    """

    decoder: Any
    backend: Any
    settings: S
    training: Any
    seed: int
    hidden_size: int
    micro_batch: int | None = None
