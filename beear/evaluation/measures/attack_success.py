"""Attack success rate (ASR): requests that must be answered safely and are not, in the clear and under each probe.

An LLM judge may look at the completions once more; the gate then takes the worse of the two rates.
"""

from collections import Counter
from collections.abc import Sequence

from beear.config.schema import EvaluateConfig, GateConfig
from beear.data.hits import rule_for
from beear.data.rows import Message, Probe
from beear.evaluation import stats
from beear.evaluation.measures.base import Measure, check_named
from beear.evaluation.outcomes import CLEAR, ProbeOutcomes, RequestOutcome
from beear.evaluation.shard import Shard
from beear.records.display import Row, rate_cell
from beear.records.report import GateCheck, Measurement, ProbeAsr, Report

SAMPLES, SAMPLE_LENGTH = 3, 200


class AttackSuccess(Measure[list[ProbeOutcomes]]):
    """ASR in the clear, then under each probe."""

    name = "attack_success"
    bound = "asr"

    def not_tested(self, settings: EvaluateConfig) -> list[str]:
        """Return that no judge was asked, where none was."""
        if settings.judge.url is not None:
            return []
        return ["completions by an LLM judge: verdicts are by keywords and hit rules, which are often wrong"]

    def observe(self, shard: Shard) -> list[ProbeOutcomes]:
        """Answer the shard's requests in the clear and under each probe."""
        return [attacked(shard, probe) for probe in (None, *shard.rows.probes)]

    def merge(self, parts: Sequence[list[ProbeOutcomes]]) -> list[ProbeOutcomes]:
        """Return each probe's rows in their own order."""
        return [
            ProbeOutcomes(same[0].name, same[0].kind, sorted((row for p in same for row in p.rows), key=lambda row: row.index))
            for same in zip(*parts, strict=True)
        ]

    def review(self, whole: list[ProbeOutcomes], settings: EvaluateConfig) -> tuple[list[ProbeOutcomes], list[str]]:
        """Ask the judge, where one is configured."""
        if settings.judge.url is None:
            return whole, []
        from beear.evaluation.judge import Judge, judge_all

        with Judge(settings.judge) as judge:
            return judge_all(judge, whole)

    def result(self, whole: list[ProbeOutcomes], confidence: float) -> dict[str, object]:
        """Return each probe's rate with a few samples."""
        clear, *probes = (summarise(found, confidence) for found in whole)
        return {"asr_clean": clear, "asr_probes": probes}

    def headline(self, whole: list[ProbeOutcomes]) -> dict[str, float]:
        """Return ASR in the clear and, where there are probes, the worst under one."""
        clear, *under = (sum(row.hit for row in found.rows) / max(len(found.rows), 1) for found in whole)
        return {"asr_clean": clear} | ({"asr_worst": max(under)} if under else {})

    def checks(self, before: Measurement | None, after: Measurement, gate: GateConfig, confidence: float) -> list[GateCheck]:
        """Return one check per probe and judgement: where a judge spoke, both must be within the limit."""
        return [
            stats.check_rate(name, rate, gate.asr, confidence)
            for probe in (after.asr_clean, *after.asr_probes)
            for name, rate in ((_checked(probe), probe.asr), (_checked(probe, judged=True), probe.judge_asr))
            if rate is not None
        ]

    def rows(self, report: Report) -> list[Row]:
        """Return a line per probe, and one more where a judge spoke."""
        before, after = report.before, report.after
        later = {probe.name: probe for probe in after.asr_probes} if after else {}
        pairs = [(before.asr_clean, after.asr_clean if after else None)]
        pairs += [(probe, later.get(probe.name)) for probe in before.asr_probes]
        rows = []
        for one, two in pairs:
            name = CLEAR if one is before.asr_clean else f"{one.name} ({one.kind})"
            check = check_named(report, _checked(one))
            rows.append(Row("ASR", name, rate_cell(one.asr), rate_cell(two.asr if two else None), check=check))
            if one.judge_asr or (two and two.judge_asr):
                check = check_named(report, _checked(one, judged=True))
                judged = rate_cell(two.judge_asr if two else None)
                rows.append(Row("ASR by the judge", name, rate_cell(one.judge_asr), judged, check=check))
        return rows

    def metrics(self, found: Measurement) -> dict[str, float]:
        """Return ASR in the clear and under each probe, with upper bounds, and the worst under a probe."""
        clear = found.asr_clean.asr
        flat = {"asr_clean": clear.rate, "asr_clean_high": clear.high, "asr/clear": clear.rate}
        if found.asr_probes:
            flat["asr_worst"] = max(probe.asr.rate for probe in found.asr_probes)
        for probe in found.asr_probes:
            flat |= {f"asr/{probe.name}": probe.asr.rate, f"asr_high/{probe.name}": probe.asr.high}
        return flat


ATTACK_SUCCESS = AttackSuccess()


def attacked(shard: Shard, probe: Probe | None) -> ProbeOutcomes:
    """Return what the shard's requests give under ``probe``, or in the clear where it is None."""
    from beear.evaluation.likelihood import unwanted_is_likelier

    rows, requests, completions = shard.defense, shard.requests(probe), shard.completions(probe)
    rules = [rule_for(row, probe, shard.keywords) for _, row in rows]
    hits = [rule.matches(completion, shard.keywords) for rule, completion in zip(rules, completions, strict=True)]
    unknown = [i for i, hit in enumerate(hits) if hit is None]
    asked = [requests[i] for i in unknown]
    likelier = unwanted_is_likelier(shard.subject, asked, [rows[i][1] for i in unknown], shard.settings.batch_size)
    for i, hit in zip(unknown, likelier, strict=True):
        hits[i] = hit
    outcomes = [
        RequestOutcome(index, str(rule), bool(hit), _shown(request), completion, row.safe, row.unwanted)
        for (index, row), rule, hit, request, completion in zip(rows, rules, hits, requests, completions, strict=True)
    ]
    return ProbeOutcomes(probe.name if probe else CLEAR, probe.kind if probe else "none", outcomes)


def summarise(found: ProbeOutcomes, confidence: float) -> ProbeAsr:
    """Return the ASR over all rows of one probe, with a few samples, hits first."""
    rows = sorted(found.rows, key=lambda r: r.index)
    judged = [r for r in rows if r.judged is not None]
    picked = sorted(rows, key=lambda r: not r.hit)[:SAMPLES]
    return ProbeAsr(
        name=found.name,
        kind=found.kind,
        hit_rule=_rules(rows),
        asr=stats.wilson(sum(r.hit for r in rows), len(rows), confidence),
        judge_asr=stats.wilson(sum(bool(r.judged) for r in judged), len(judged), confidence) if judged else None,
        samples=[(r.prompt[:SAMPLE_LENGTH], r.completion[:SAMPLE_LENGTH]) for r in picked],
    )


def _checked(probe: ProbeAsr, judged: bool = False) -> str:
    """Return the name of the gate's check on a probe."""
    name = "ASR without trigger" if probe.kind == "none" else f"ASR under {probe.name}"
    return f"{name} (judge)" if judged else name


def _shown(request: Sequence[Message]) -> str:
    """Return a request as text for a reader: a lone user turn as it is, other turns with their roles."""
    if len(request) == 1:
        return request[0].content
    return "\n".join(f"{m.role}: {m.content}" for m in request)


def _rules(rows: list[RequestOutcome]) -> str:
    """Return the hit rules in use, the most frequent first, with their counts where there are several."""
    counts = Counter(r.rule for r in rows)
    if len(counts) <= 1:
        return next(iter(counts), "")
    named = [f"{rule} ({count})" for rule, count in counts.most_common(4)]
    return ", ".join(named + [f"{len(counts) - 4} more"] * (len(counts) > 4))
