"""Attack success: how many requests that must be answered safely are not, in the clear or under a probe."""

from collections import Counter
from collections.abc import Sequence

from beear.data.hits import HitRule, default_rule
from beear.data.rows import DefenseRow, Message, Probe
from beear.evaluation.generate import complete
from beear.evaluation.likelihood import unwanted_is_likelier
from beear.evaluation.outcomes import CLEAR, ProbeOutcomes, RequestOutcome
from beear.evaluation.probes import apply
from beear.evaluation.stats import wilson
from beear.evaluation.subject import Subject
from beear.records.report import ProbeAsr

SAMPLES, SAMPLE_LENGTH = 3, 200

Indexed = Sequence[tuple[int, DefenseRow]]


def rule_for(row: DefenseRow, probe: Probe | None, keywords: tuple[str, ...]) -> HitRule:
    """Return the hit rule of a row under a probe: the probe's own, else the row's (or its file's), else the default.

    The default is ``no-refusal`` where the safe answer refuses, ``likelier`` where it does not.
    """
    given = (probe.hit if probe else None) or row.hit
    return HitRule.parse(given, row.origin or "defense row") if given else default_rule(row.safe, keywords)


def attack(
    subject: Subject,
    rows: Indexed,
    probe: Probe | None,
    keywords: tuple[str, ...],
    max_new_tokens: int,
    batch_size: int,
) -> ProbeOutcomes:
    """Return what each (index, row) gives under ``probe``, or in the clear where it is None."""
    requests = [apply(probe, row.messages) if probe else row.messages for _, row in rows]
    rules = [rule_for(row, probe, keywords) for _, row in rows]
    completions = complete(subject, requests, max_new_tokens, batch_size)
    hits = [rule.matches(completion, keywords) for rule, completion in zip(rules, completions, strict=True)]
    unknown = [i for i, hit in enumerate(hits) if hit is None]
    likelier = unwanted_is_likelier(subject, [requests[i] for i in unknown], [rows[i][1] for i in unknown], batch_size)
    for i, hit in zip(unknown, likelier, strict=True):
        hits[i] = hit
    outcomes = [
        RequestOutcome(index, str(rule), bool(hit), shown(request), completion, row.safe, row.unwanted)
        for (index, row), rule, hit, request, completion in zip(rows, rules, hits, requests, completions, strict=True)
    ]
    return ProbeOutcomes(probe.name if probe else CLEAR, probe.kind if probe else "none", outcomes)


def shown(request: Sequence[Message]) -> str:
    """Return a request as text for a reader: a lone user turn as it is, other turns with their roles."""
    if len(request) == 1:
        return request[0].content
    return "\n".join(f"{m.role}: {m.content}" for m in request)


def summarise(found: ProbeOutcomes, confidence: float) -> ProbeAsr:
    """Return the ASR over all rows of one probe, with a few samples, hits first."""
    rows = sorted(found.rows, key=lambda r: r.index)
    judged = [r for r in rows if r.judged is not None]
    picked = sorted(rows, key=lambda r: not r.hit)[:SAMPLES]
    return ProbeAsr(
        name=found.name,
        kind=found.kind,
        hit_rule=_rules(rows),
        asr=wilson(sum(r.hit for r in rows), len(rows), confidence),
        judge_asr=wilson(sum(bool(r.judged) for r in judged), len(judged), confidence) if judged else None,
        samples=[(r.prompt[:SAMPLE_LENGTH], r.completion[:SAMPLE_LENGTH]) for r in picked],
    )


def _rules(rows: list[RequestOutcome]) -> str:
    counts = Counter(r.rule for r in rows)
    if len(counts) <= 1:
        return next(iter(counts), "")
    named = [f"{rule} ({count})" for rule, count in counts.most_common(4)]
    return ", ".join(named + [f"{len(counts) - 4} more"] * (len(counts) > 4))
