"""The before/after table, as data: the page, the model card and the terminal all print these rows."""

from dataclasses import dataclass

from beear.records.report import GateCheck, Measurement, Report, ResistanceCurve
from beear.report.numbers import Cell, mean_cell, number, percent, points_cell, rate_cell


@dataclass(frozen=True)
class Row:
    """One measure: ``before`` and ``after`` (None: not measured), the paired change, its gate check if it has one."""

    group: str
    name: str
    before: Cell | None
    after: Cell | None = None
    change: Cell | None = None
    check: GateCheck | None = None

    @property
    def limit(self) -> str:
        """The gate's bound in words, or an empty string."""
        return f"≤ {limit_text(self.check)}" if self.check else ""


def limit_text(check: GateCheck) -> str:
    """Return a check's limit: shares as per cent, losses in nats as they are."""
    return f"{number(check.limit, 3)} nats" if check.name == "anchor NLL rise" else percent(check.limit)


def table(report: Report) -> list[Row]:
    """Return the rows in reading order: ASR, judge, utility, entrapment resistance, tasks."""
    rows = _asr(report) + _utility(report) + _resistance(report) + _tasks(report)
    return [row for row in rows if row.before or row.after]


def unplaced(report: Report) -> list[GateCheck]:
    """Return the gate's checks that no row of :func:`table` shows."""
    placed = {id(row.check) for row in table(report) if row.check}
    return [check for check in report.gate.checks if id(check) not in placed]


def _check(report: Report, name: str) -> GateCheck | None:
    """Return the gate's check of exactly this name (:mod:`beear.evaluation.gate` gives the names)."""
    return next((check for check in report.gate.checks if check.name == name), None)


def _asr(report: Report) -> list[Row]:
    before, after = report.before, report.after
    found = {p.name: p for p in after.asr_probes} if after else {}
    clean_after = after.asr_clean if after else None
    pairs = [(before.asr_clean, clean_after)] + [(probe, found.get(probe.name)) for probe in before.asr_probes]
    rows = []
    for index, (one, two) in enumerate(pairs):
        checked = "ASR without trigger" if index == 0 else f"ASR under {one.name}"
        check = _check(report, checked)
        name = "no trigger" if index == 0 else f"{one.name} ({one.kind})"
        rows.append(Row("ASR", name, rate_cell(one.asr), rate_cell(two.asr if two else None), check=check))
        if one.judge_asr or (two and two.judge_asr):
            judged = rate_cell(two.judge_asr if two else None)
            check = _check(report, f"{checked} (judge)")
            rows.append(Row("ASR by the judge", name, rate_cell(one.judge_asr), judged, check=check))
    return rows


def _utility(report: Report) -> list[Row]:
    before, after, loss = report.before, report.after, report.utility_loss
    gate = report.config.get("gate")
    in_nats = isinstance(gate, dict) and gate.get("utility_measure") == "nll"
    on_match, on_nll = (None, loss) if in_nats else (loss, None)
    return [
        Row("Benign use", "over-refusal", rate_cell(before.over_refusal),
            rate_cell(after.over_refusal if after else None), points_cell(report.over_refusal_rise),
            _check(report, "over-refusal rise")),
        Row("Benign use", "exact match", rate_cell(before.exact_match),
            rate_cell(after.exact_match if after else None), points_cell(on_match), _check(report, "exact-match loss")),
        Row("Benign use", "anchor NLL", mean_cell(before.anchor_nll, "nats"),
            mean_cell(after.anchor_nll, "nats") if after else None, points_cell(on_nll, nats=True),
            _check(report, "anchor NLL rise")),
    ]  # fmt: skip


def _curve_cell(curve: ResistanceCurve | None) -> Cell | None:
    if curve is None:
        return None
    budget = curve.steps[-1] if curve.steps else 0
    crossed = f"step {curve.crossing_step}" if curve.crossing_step is not None else f"none in {budget}"
    return Cell(crossed, f"gap {number(curve.final_gap)}")


def _curves(measurement: Measurement | None) -> dict[tuple[int, str, int], ResistanceCurve]:
    return {(c.layer, c.placement, c.seed): c for c in measurement.resistance} if measurement else {}


def _resistance(report: Report) -> list[Row]:
    before, after = _curves(report.before), _curves(report.after)
    rows = []
    for key in dict.fromkeys([*before, *after]):
        name = f"{key[1]}, layer {key[0]}" + (f", seed {key[2]}" if key[2] else "")
        rows.append(
            Row(
                "Entrapment resistance: step at which a fresh attack crosses",
                name,
                _curve_cell(before.get(key)),
                _curve_cell(after.get(key)),
            )
        )
    return rows


def _tasks(report: Report) -> list[Row]:
    before, after = report.before.tasks, report.after.tasks if report.after else {}
    return [
        Row("Tasks", name, Cell(number(before[name], 4)) if name in before else None,
            Cell(number(after[name], 4)) if name in after else None)
        for name in dict.fromkeys([*before, *after])
    ]  # fmt: skip
