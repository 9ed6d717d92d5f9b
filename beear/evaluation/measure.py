"""One measurement of one checkpoint, shard by shard: each worker measures every ``world``-th row, the driver merges."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from beear.config.schema import EvaluateConfig
from beear.data.refusals import load_keywords
from beear.data.rows import AnchorRow, DefenseRow, Probe
from beear.evaluation import asr, resistance, stats, utility
from beear.evaluation.outcomes import AnchorOutcome, Partial, ProbeOutcomes
from beear.evaluation.subject import Subject
from beear.records.report import Measurement


@dataclass(frozen=True)
class MeasuredRows:
    """The rows a measurement is made on, the same on every shard."""

    defense: Sequence[DefenseRow]
    anchor: Sequence[AnchorRow]
    probes: Sequence[Probe] = field(default_factory=tuple)

    def first(self, count: int | None) -> "MeasuredRows":
        """Return at most ``count`` rows of each kind."""
        return self if count is None else MeasuredRows(self.defense[:count], self.anchor[:count], self.probes)


def measure(
    subject: Subject, rows: MeasuredRows, config: EvaluateConfig, seed: int = 0, shard: tuple[int, int] = (0, 1)
) -> Partial:
    """Measure shard ``shard`` = (rank, world) of ``rows``: ASR in the clear and under each probe, utility,
    over-refusal, and this shard's share of the fresh attacks of entrapment resistance.

    Raises:
        UserError: an unknown keyword list, or a row that its hit rule cannot judge.
    """
    started = time.monotonic()
    found = measure_rows(subject, rows.first(config.rows), config, shard)
    if config.resistance.enabled:
        found.resistance = resistance.measure_resistance(subject, rows.defense, config, seed, shard)
    found.seconds = time.monotonic() - started
    return found


def measure_rows(subject: Subject, rows: MeasuredRows, config: EvaluateConfig, shard: tuple[int, int]) -> Partial:
    """Measure what is told row by row, all but entrapment resistance."""
    started, (rank, world) = time.monotonic(), shard
    assert config.batch_size is not None, "the configuration is resolved first"
    keywords, tokens, size = load_keywords(config.keywords), config.max_new_tokens, config.batch_size
    defense = list(enumerate(rows.defense))[rank::world]
    anchor = list(enumerate(rows.anchor))[rank::world]
    attacks: list[Probe | None] = [None, *rows.probes]
    requests = [asr.attack(subject, defense, probe, keywords, tokens, size) for probe in attacks]
    useful = utility.useful(subject, anchor, keywords, tokens, size)
    return Partial(shard, requests, useful, seconds=time.monotonic() - started)


def combine(partials: Sequence[Partial]) -> Partial:
    """Return all shards as one, rows in their own order.

    Raises:
        ValueError: a shard is missing or given twice.
    """
    worlds, ranks = {p.shard[1] for p in partials}, sorted(p.shard[0] for p in partials)
    if len(worlds) != 1 or ranks != list(range(worlds.pop())):
        raise ValueError(f"shards {[p.shard for p in partials]}: expected each rank of one world once")
    requests = [
        ProbeOutcomes(same[0].name, same[0].kind, sorted((r for p in same for r in p.rows), key=lambda r: r.index))
        for same in zip(*(p.requests for p in partials), strict=True)
    ]
    anchor = sorted((row for p in partials for row in p.anchor), key=lambda r: r.index)
    curves = sorted((c for p in partials for c in p.resistance), key=lambda c: (c.placement, c.layer, c.seed))
    return Partial((0, 1), requests, anchor, curves, max(p.seconds for p in partials))


def merge(partials: Sequence[Partial], confidence: float, weights_digest: str = "") -> Measurement:
    """Return the measurement that the shards ``partials`` make up."""
    whole = combine(partials)
    clear, *probes = (asr.summarise(found, confidence) for found in whole.requests)
    exact, refused = _told([r.exact for r in whole.anchor]), _told([r.refused for r in whole.anchor])
    nll = [r.nll for r in whole.anchor]
    return Measurement(
        weights_digest=weights_digest,
        asr_clean=clear,
        asr_probes=probes,
        over_refusal=stats.wilson(sum(refused), len(refused), confidence),
        exact_match=stats.wilson(sum(exact), len(exact), confidence),
        anchor_nll=stats.mean(nll, confidence),
        resistance=whole.resistance,
        rows_exact=exact,
        rows_refused=refused,
        rows_nll=nll,
        seconds=whole.seconds,
    )


def _told(values: list[bool | None]) -> list[bool]:
    return [value for value in values if value is not None]


def headline(partials: Sequence[Partial]) -> dict[str, float]:
    """Return the few numbers of an after-epoch measure: ASR in the clear and the worst under a probe, utility."""
    whole = combine(partials)
    rates = {found.name: _share([r.hit for r in found.rows]) for found in whole.requests}
    clear, *under = rates.values()
    numbers = {"asr_clean": clear} | ({"asr_worst": max(under)} if under else {})
    return numbers | _usefulness(whole.anchor)


def _usefulness(rows: Sequence[AnchorOutcome]) -> dict[str, float]:
    return {
        "exact_match": _share(_told([r.exact for r in rows])),
        "over_refusal": _share(_told([r.refused for r in rows])),
        "anchor_nll": sum(r.nll for r in rows) / max(len(rows), 1),
    }


def _share(values: Sequence[bool]) -> float:
    return sum(values) / max(len(values), 1)
