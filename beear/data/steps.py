"""An epoch as a sequence of steps of encoded rows: :mod:`beear.data.local` and the Ray stream make batches of them.

Row ``j`` of an epoch's stream stands in lane ``j % B`` of global batch ``j // B``. Worker ``w`` of ``W`` holds the lanes
``k`` with ``k % W == w``. Every worker goes through the same stream, and encodes only the rows of its own lanes and those
whose length decides their batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Generic, TypeVar

from beear.data.data_source import DataSource, Row
from beear.data.encode import EncodedAnchor, EncodedDefense, encode_anchor, encode_defense
from beear.data.missing_answers import complete
from beear.data.rows import DefenseRow, answered
from beear.data.sampling import Pass, RowStream, bucketed, window_of
from beear.data.templates import Template
from beear.errors import UserError

E = TypeVar("E", bound=EncodedDefense | EncodedAnchor)


@dataclass(frozen=True)
class TrainingPlan:
    """All that decides the training batches: plain data, the same on every worker.

    ``batch_size`` is B, the rows of a global batch. ``clean_rows`` of the B conversations of each anchor batch are
    clean requests with their safe answers, from the defense set. ``max_length`` and ``context`` are in tokens. ``filled``
    maps request digests to safe answers that the file leaves out. ``bucket`` batches are grouped by length
    (:func:`beear.data.sampling.window_of`). None groups only conversations. Defense batches then keep their random order,
    because the perturbation is fitted on an epoch's first ones, which must be a fair sample.
    """

    defense: DataSource
    anchor: DataSource
    seed: int
    batch_size: int
    inner_batches: int
    outer_steps: int
    clean_rows: int
    max_length: int
    context: int | None = None
    bucket: int | None = None
    refusal: str = "I cannot help with that request."
    filled: dict[str, str] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps of one epoch: as many as the inner or the outer loop needs."""
        return max(self.inner_batches, self.outer_steps)


@dataclass(frozen=True)
class Step:
    """One worker's rows of step ``number`` (from 0) of ``epoch``; ``text`` is empty after the last removal step."""

    epoch: int
    number: int
    defense: list[EncodedDefense]
    text: list[EncodedAnchor]


class Drawn(Generic[E]):
    """A row that is encoded when its tokens are first asked for, and only then."""

    def __init__(self, row: Row, encode: Callable[[Row], E]) -> None:
        """``encode`` turns the row into tokens."""
        self._row, self._encode = row, encode

    @cached_property
    def encoded(self) -> E:
        """The row in tokens.

        Raises:
            UserError: it cannot be encoded.
        """
        return self._encode(self._row)


class Steps:
    """Yields a worker's steps, epoch by epoch; ``rank`` of ``world`` holds every ``world``-th lane.

    ``read`` counts the training rows read from files, ``encoded`` the rows turned into tokens.
    """

    def __init__(self, plan: TrainingPlan, template: Template, rank: int = 0, world: int = 1) -> None:
        """Open the streams.

        Raises:
            UserError: there are more workers than rows in a batch.
        """
        if world > plan.batch_size:
            raise UserError(f"method.batch_size is {plan.batch_size} and parallel.workers {world}; expected a row per worker.")
        self.plan, self.template = plan, template
        self.lanes = range(rank, plan.batch_size, world)
        self.encoded = 0
        self._defense = RowStream(plan.defense, plan.seed, "defense")
        self._clean = RowStream(plan.defense, plan.seed, "clean")
        self._anchor = RowStream(plan.anchor, plan.seed, "anchor")

    @property
    def read(self) -> int:
        """Training rows read from files so far."""
        return self._defense.read + self._clean.read + self._anchor.read

    def epoch(self, number: int) -> Iterator[Step]:
        """Yield the steps of 1-based epoch ``number``.

        Raises:
            UserError: a row is bad or cannot be encoded, or a set has no training row.
        """
        plan, clean = self.plan, self.plan.clean_rows
        anchors = max(plan.batch_size - clean, 1)

        def request(row: Row) -> EncodedDefense:
            assert isinstance(row, DefenseRow)
            self.encoded += 1
            row = complete(row, plan.filled, plan.refusal, number)
            return encode_defense(row, self.template, plan.max_length, plan.context)

        defense = _grouped(self._defense.passes(number), request, plan.batch_size, plan.bucket or 1)
        cleans = _grouped(self._clean.passes(number), self._encode_text, max(clean, 1), 1)
        texts = _grouped(self._anchor.passes(number), self._encode_text, anchors, plan.bucket)
        for step in range(plan.steps):
            rows = list(islice(defense, plan.batch_size))
            text = []
            if step < plan.outer_steps:
                mixed = [*islice(cleans, clean), *islice(texts, plan.batch_size - clean)]
                text = [mixed[lane].encoded for lane in self.lanes]
            yield Step(number, step, [rows[lane].encoded for lane in self.lanes], text)

    def _encode_text(self, row: Row) -> EncodedAnchor:
        """Encode a conversation, or a clean request with its safe answer."""
        self.encoded += 1
        if isinstance(row, DefenseRow):
            full = complete(row, self.plan.filled, self.plan.refusal)
            row = answered(full.messages, full.safe or "", row.origin)
        return encode_anchor(row, self.template, self.plan.max_length, self.plan.context)


def _grouped(passes: Iterator[Pass], encode: Callable[[Row], E], rows: int, bucket: int | None) -> Iterator[Drawn[E]]:
    """Yield the rows of every pass, those of a window regrouped into batches of like length."""
    for found in passes:
        drawn = (Drawn(row, encode) for row in found.rows)
        yield from bucketed(drawn, lambda row: row.encoded.lengths, rows, window_of(bucket, rows, found.size), found.key)
