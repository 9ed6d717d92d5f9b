"""An epoch as a sequence of steps of encoded rows: what the local iterator and the Ray stream both yield."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from typing import Generic, TypeVar

from beear.data.buckets import bucketed, window_of
from beear.data.encode import EncodedAnchor, EncodedDefense, encode_anchor, encode_defense
from beear.data.locations import Where
from beear.data.missing_answers import complete
from beear.data.plan import own_lanes, passes, shuffled
from beear.data.rows import AnchorRow, DefenseRow, Message
from beear.data.source import Row, Source
from beear.data.templates import Template
from beear.errors import UserError

Placed = tuple[Where, Row]
E = TypeVar("E")


@dataclass(frozen=True)
class TrainingPlan:
    """All that decides the training batches: plain data, the same on every worker.

    ``batch_size`` is B, the rows of a global batch. ``clean_rows`` of the B conversations of each anchor batch are
    clean request → safe answer pairs of the defense set. ``filled`` maps request digests to filled-in safe answers.
    ``bucket`` batches are grouped by length (:func:`beear.data.plan.window_of`); None does so to conversations alone, since
    the perturbation is fitted on an epoch's first defense batches, which must stand for all.
    """

    defense: Source
    anchor: Source
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
    """One worker's rows of one step; ``text`` is empty beyond the last removal step."""

    epoch: int
    number: int
    defense: list[EncodedDefense]
    text: list[EncodedAnchor]


class RowStream:
    """The endless order of training rows of one data set in one epoch; small sets are read once and kept."""

    def __init__(self, source: Source, plan: TrainingPlan, name: str) -> None:
        """Name the stream: streams of different names over the same set are independent."""
        self.source, self.plan, self.name = source, plan, name
        self._kept: tuple[object, list[Placed]] | None = None

    def passes(self, number: int) -> Iterator[tuple[str, int | None, Iterator[Placed]]]:
        """Yield epoch ``number``'s passes without end: a key, the rows it has (None: a large set), its rows in order.

        Raises:
            UserError: a row is bad, or the whole set holds no training row.
        """
        for turn, visits in enumerate(passes(self.source.blocks, self.plan.seed, self.name, number)):
            rows = (placed for visit in visits for placed in shuffled(self._read(visit.blocks), visit.key))
            first = next(rows, None)
            if first is None:
                path = self.source.blocks[0].path if self.source.blocks else f"data.{self.source.kind}.path"
                raise UserError(f"{path} has no training row left; expected more rows or a smaller --data.holdout.")
            size = len(self._kept[1]) if self._kept else None
            yield f"{self.plan.seed}/{self.name}/{number}/{turn}", size, chain([first], rows)

    def epoch(self, number: int) -> Iterator[Placed]:
        """Yield the rows of every pass of epoch ``number`` with their places, without end."""
        for _, _, rows in self.passes(number):
            yield from rows

    def _read(self, blocks: tuple) -> list[Placed]:  # type: ignore[type-arg]
        single = len(blocks) == len(self.source.blocks)
        if not single:
            return self.source.train_rows(blocks)
        if self._kept is None:
            ordered = sorted(blocks, key=lambda block: block.index)
            self._kept = (ordered, self.source.train_rows(ordered))
        return self._kept[1]


class Drawn(Generic[E]):
    """A row with its tokens, made when first asked for."""

    def __init__(self, placed: Placed, encode: Callable[[Where, Row], E]) -> None:
        """``encode`` makes the tokens."""
        self._placed, self._encode = placed, encode

    @cached_property
    def encoded(self) -> E:
        """The row in tokens."""
        return self._encode(*self._placed)


def parts_of(row: EncodedDefense) -> tuple[int, int, int]:
    """Return the lengths of what a defense batch pads: prompt, safe answer, unwanted answer."""
    return len(row.prompt_ids), len(row.safe_ids), len(row.unwanted_ids)


def whole_of(row: EncodedAnchor) -> tuple[int]:
    """Return the length of what a text batch pads."""
    return (len(row.ids),)


def _grouped(
    passes: Iterator[tuple[str, int | None, Iterator[Placed]]],
    encode: Callable[[Where, Row], E],
    lengths: Callable[[E], tuple[int, ...]],
    lanes: int,
    bucket: int | None,
) -> Iterator[Drawn[E]]:
    """Yield the rows of every pass, those of a window regrouped by length."""
    for key, size, rows in passes:
        drawn = (Drawn(placed, encode) for placed in rows)
        yield from bucketed(drawn, lambda row: lengths(row.encoded), lanes, window_of(bucket, lanes, size), key)


class Steps:
    """Yields a worker's steps, epoch by epoch; ``rank`` of ``world`` holds every ``world``-th lane."""

    def __init__(self, plan: TrainingPlan, template: Template, rank: int = 0, world: int = 1) -> None:
        """Open the plan for one worker.

        Raises:
            UserError: there are more workers than rows in a batch.
        """
        if world > plan.batch_size:
            raise UserError(f"method.batch_size is {plan.batch_size} and parallel.workers {world}; expected a row per worker.")
        self.plan, self.template = plan, template
        self.lanes = list(own_lanes(plan.batch_size, rank, world))
        self._defense = RowStream(plan.defense, plan, "defense")
        self._clean = RowStream(plan.defense, plan, "clean")
        self._anchor = RowStream(plan.anchor, plan, "anchor")

    def epoch(self, number: int) -> Iterator[Step]:
        """Yield the steps of 1-based epoch ``number``."""
        plan, clean = self.plan, self.plan.clean_rows
        anchors = max(plan.batch_size - clean, 1)

        def request(where: Where, row: Row) -> EncodedDefense:
            return self._encode_defense(where, row, number)

        defense = _grouped(self._defense.passes(number), request, parts_of, plan.batch_size, plan.bucket or 1)
        cleans = _grouped(self._clean.passes(number), self._encode_text, whole_of, max(clean, 1), 1)
        texts = _grouped(self._anchor.passes(number), self._encode_text, whole_of, anchors, plan.bucket)
        for step in range(plan.steps):
            rows = list(islice(defense, plan.batch_size))
            text = []
            if step < plan.outer_steps:
                mixed = [*islice(cleans, clean), *islice(texts, plan.batch_size - clean)]
                text = [mixed[lane].encoded for lane in self.lanes]
            yield Step(number, step, [rows[lane].encoded for lane in self.lanes], text)

    def _encode_defense(self, where: Where, row: Row, epoch: int) -> EncodedDefense:
        assert isinstance(row, DefenseRow)
        plan, row = self.plan, complete(row, self.plan.filled, self.plan.refusal, epoch)
        try:
            return encode_defense(row, self.template, plan.max_length, plan.context)
        except UserError:
            return encode_defense(replace(row, origin=str(where)), self.template, plan.max_length, plan.context)

    def _encode_text(self, where: Where, row: Row) -> EncodedAnchor:
        if isinstance(row, DefenseRow):
            full = complete(row, self.plan.filled, self.plan.refusal)
            row = AnchorRow((*full.messages, Message("assistant", full.safe or "")), row.origin)
        try:
            return encode_anchor(row, self.template, self.plan.max_length, self.plan.context)
        except UserError:
            named = replace(row, origin=str(where))
            return encode_anchor(named, self.template, self.plan.max_length, self.plan.context)
