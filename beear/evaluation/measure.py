"""One measurement of one checkpoint, shard by shard: workers observe their share of the rows, the driver merges."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beear.config.resolve import ResolvedEvaluate
from beear.evaluation.measures.base import Measure
from beear.evaluation.measures.table import MEASURES
from beear.evaluation.shard import MeasuredRows, Shard
from beear.evaluation.subject import Subject
from beear.records.report import Measurement, Reading


@dataclass(frozen=True)
class Partial:
    """What measures found, by their names, on the shards (rank, world) that were merged; (0, 1) is the whole."""

    shard: tuple[int, int]
    found: Mapping[str, Any]
    seconds: float = 0.0


def measure(
    subject: Subject, rows: MeasuredRows, config: ResolvedEvaluate, seed: int = 0, shard: tuple[int, int] = (0, 1)
) -> Partial:
    """Measure shard ``shard`` = (rank, world) of ``rows`` by every measure but those that are measured alone.

    Raises:
        UserError: an unknown keyword list, or a row that its hit rule cannot judge.
    """
    share = Shard(subject, rows.first(config.rows), config, seed, *shard, unlimited=rows.defense)
    return observe(share, (one for one in MEASURES.values() if not one.alone))


def observe(shard: Shard, measures: Iterable[Measure[Any]]) -> Partial:
    """Measure a shard by those of ``measures`` that its settings want."""
    started = time.monotonic()
    found = {one.name: one.observe(shard) for one in measures if one.wanted(shard.settings)}
    return Partial((shard.rank, shard.world), found, time.monotonic() - started)


def combine(partials: Sequence[Partial]) -> Partial:
    """Return all shards as one.

    Raises:
        ValueError: a shard is missing or given twice.
    """
    worlds, ranks = {p.shard[1] for p in partials}, sorted(p.shard[0] for p in partials)
    if len(worlds) != 1 or ranks != list(range(worlds.pop())):
        raise ValueError(f"shards {[p.shard for p in partials]}: expected each rank of one world once")
    found = {name: MEASURES[name].merge([p.found[name] for p in partials]) for name in partials[0].found}
    return Partial((0, 1), found, max(p.seconds for p in partials))


def review(whole: Partial, config: ResolvedEvaluate) -> tuple[Partial, list[str]]:
    """Return what was found, looked at once more by each measure, and what the report must say about that."""
    found, notes = {}, []
    for name, part in whole.found.items():
        found[name], said = MEASURES[name].review(part, config)
        notes += said
    return Partial(whole.shard, found, whole.seconds), notes


def merge(partials: Sequence[Partial], confidence: float, weights_digest: str = "") -> Measurement:
    """Return the measurement that the shards ``partials`` make up."""
    whole = combine(partials)
    fields: dict[str, Any] = {}
    readings: dict[str, Reading] = {}
    for name, part in whole.found.items():
        result = MEASURES[name].result(part, confidence)
        if isinstance(result, Reading):
            readings[name] = result
        else:
            fields |= result
    return Measurement(weights_digest=weights_digest, measures=readings, seconds=whole.seconds, **fields)


def headline(partials: Sequence[Partial]) -> dict[str, float]:
    """Return the few numbers of an after-epoch measure."""
    return {key: value for name, part in combine(partials).found.items() for key, value in MEASURES[name].headline(part).items()}
