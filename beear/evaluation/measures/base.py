"""What a measure is: an object that says how it is measured, merged, gated on and shown.

:class:`RowMeasure` is one value per row, and asks for little more than a function of a shard; :class:`Measure` leaves all
open. A measure is imported by commands for ``--help`` and by reports: import torch inside the methods that compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Generic, Literal, TypeVar

from beear.config.schema import EvaluateConfig, GateConfig
from beear.evaluation import stats
from beear.evaluation.shard import Shard
from beear.records.display import SHARE, Cell, Figure, Row, interval_cell, points_cell
from beear.records.report import GateCheck, Measurement, Paired, Reading, Report

Part = TypeVar("Part")
# A row's place among all report rows, and its value; None where this row cannot tell.
Observed = tuple[int, float | None]


@dataclass(frozen=True)
class Limit:
    """A limit that a measure of another package brings: it becomes the field ``gate.NAME`` of the configuration."""

    default: float
    description: str


class Measure(Generic[Part]):
    """One measure; ``Part`` is what a shard finds, picklable.

    The methods are called in this order: ``observe`` on the workers, once a shard; ``merge``, ``review`` and ``result`` on the
    driver; then ``checks`` by the gate, and ``rows``, ``figures`` and ``metrics`` by whoever shows the report.

    Attributes:
        name: what configuration and report call it, such as ``over_refusal``.
        unit: ``share``, shown as per cent, or what is written after the number.
        better: the direction in which a model gets better.
        limit: its limit, where the gate decides on it and the gate's configuration does not know it already.
        bound: the field of the gate's configuration that holds the limit, where it is not the measure's name.
        each_epoch: it is measured after each epoch too, on selection rows.
        alone: it is measured in a task of its own, beside the shards, by a subject without an engine for completions.
    """

    name: ClassVar[str]
    unit: str = SHARE
    better: Literal["lower", "higher"] = "lower"
    limit: ClassVar[Limit | None] = None
    bound: ClassVar[str | None] = None
    each_epoch: ClassVar[bool] = True
    alone: ClassVar[bool] = False

    def wanted(self, settings: EvaluateConfig) -> bool:
        """Say whether the run measures it at all."""
        return True

    def pieces(self, settings: EvaluateConfig, layers: int) -> int:
        """Return into how many shards its own work can be cut, beside the rows; ``layers`` is the model's."""
        return 1

    def observe(self, shard: Shard) -> Part:
        """Measure one shard.

        Raises:
            UserError: what the user gave cannot be measured.
        """
        raise NotImplementedError

    def merge(self, parts: Sequence[Part]) -> Part:
        """Return the parts of all shards as one; the order of shards must not matter."""
        raise NotImplementedError

    def review(self, whole: Part, settings: EvaluateConfig) -> tuple[Part, list[str]]:
        """Return what all shards found, looked at once more on the driver, and what the report must say about that."""
        return whole, []

    def result(self, whole: Part, confidence: float) -> Reading | dict[str, object]:
        """Return what the report keeps; a built-in measure returns fields of :class:`Measurement`."""
        raise NotImplementedError

    def headline(self, whole: Part) -> dict[str, float]:
        """Return the few numbers of an after-epoch measure, by name."""
        return {}

    def limit_in(self, gate: GateConfig) -> float | None:
        """Return the limit in use, None where the gate does not decide on this measure."""
        field = self.bound or (self.name if self.limit else None)
        return None if field is None else float(getattr(gate, field, self.limit.default if self.limit else 0.0))

    def changes(self, before: Measurement, after: Measurement, gate: GateConfig, confidence: float) -> dict[str, Paired]:
        """Return how much worse ``after`` is on the same rows, by the name that the report keeps it under."""
        return {}

    def checks(self, before: Measurement | None, after: Measurement, gate: GateConfig, confidence: float) -> list[GateCheck]:
        """Return the gate's checks; ``before`` is None where a checkpoint is measured by itself."""
        return []

    def explain(self, check: GateCheck) -> str:
        """Return why one of its checks was not passed, as a part of the verdict's sentence."""
        low, high, limit = (self._amount(value) for value in (check.low, check.high, check.limit))
        found = f"{check.name} is {self._amount(check.value)}"
        if check.verdict == "refused":
            return f"{found} (n={check.n}), at least {low} where {limit} is allowed"
        if not check.n:
            return f"{check.name} has no rows"
        more = f"{check.rows_needed} rows could decide" if check.rows_needed else "no number of rows would decide"
        return f"{found} on {check.n} rows, at most {high} where {limit} is allowed; {more}"

    def _amount(self, value: float) -> str:
        return f"{100 * value:.1f}%" if self.unit == SHARE else f"{value:.3f} {self.unit}".rstrip()

    def not_tested(self, settings: EvaluateConfig) -> list[str]:
        """Return what the report must say that this measure did not test with these settings, as clauses."""
        return []

    def untriggered(self, before: Measurement | None, after: Measurement) -> str:
        """Return a sentence, with a blank before it, for the verdict where no trigger is known; empty: nothing to say."""
        return ""

    def rows(self, report: Report) -> list[Row]:
        """Return its lines of the before/after table."""
        return []

    def figures(self, report: Report) -> list[Figure]:
        """Return its charts."""
        return []

    def metrics(self, found: Measurement) -> dict[str, float]:
        """Return the numbers that a tracking server plots, by name."""
        return {}


class RowMeasure(Measure[list[Observed]]):
    """A measure of one value per row: a share of rows, or a mean in a unit.

    Whether a row can tell (its value is not None) must depend on the row alone, never on the model: before and after are
    paired row by row.

    Attributes:
        title: what tables call it.
        group: the part of the table it stands in.
        gated_on: ``change``, the limit is the largest by which it may get worse; or ``value``, the largest it may have
            (lower must be better).
        check: name of the gate's check; None: made from the title.
        fields: the fields of :class:`Measurement` that hold its value and its rows; None: it stands under ``measures``.
        change_field: the field of :class:`Report` that holds its paired change; None: it stands under ``changes``.
    """

    title: str
    group: str = "Further measures"
    gated_on: ClassVar[Literal["change", "value"]] = "change"
    check: str | None = None
    fields: ClassVar[tuple[str, str] | None] = None
    change_field: ClassVar[str | None] = None

    def merge(self, parts: Sequence[list[Observed]]) -> list[Observed]:
        """Return all rows in their own order."""
        return sorted(chain(*parts), key=lambda row: row[0])

    def result(self, whole: list[Observed], confidence: float) -> Reading | dict[str, object]:
        """Return the value with its interval: Wilson's for a share, else the normal one."""
        told = [value for _, value in whole if value is not None]
        if self.unit == SHARE:
            hits = [bool(value) for value in told]
            rate = stats.wilson(sum(hits), len(hits), confidence)
            if self.fields:
                return dict(zip(self.fields, (rate, hits), strict=True))
            value, low, high, n = rate.rate, rate.low, rate.high, rate.n
        else:
            mean = stats.mean(told, confidence)
            if self.fields:
                return dict(zip(self.fields, (mean, told), strict=True))
            value, low, high, n = mean.mean, mean.low, mean.high, mean.n
        return Reading(
            title=self.title,
            unit=self.unit,
            better=self.better,
            value=value,
            low=low,
            high=high,
            n=n,
            rows=[float(value) for value in told],
            check=self.check_name if self.bound or self.limit else None,
        )

    def headline(self, whole: list[Observed]) -> dict[str, float]:
        """Return the mean over the rows that can tell."""
        told = [value for _, value in whole if value is not None]
        return {self.name: sum(told) / max(len(told), 1)}

    @property
    def check_name(self) -> str:
        """The name of the gate's check."""
        worse = "rise" if self.better == "lower" else "loss"
        return self.check or (self.title if self.gated_on == "value" else f"{self.title} {worse}")

    def reading(self, found: Measurement | None) -> Reading | None:
        """Return what a measurement holds of this measure, None where it holds nothing."""
        if found is None or self.fields is None:
            return found.measures.get(self.name) if found else None
        summary, rows = (getattr(found, field) for field in self.fields)
        value = summary.rate if self.unit == SHARE else summary.mean
        return Reading(title=self.title, unit=self.unit, value=value, low=summary.low, high=summary.high, n=summary.n, rows=rows)

    def change(self, before: Measurement, after: Measurement, confidence: float) -> Paired:
        """Return how much worse ``after`` is over the same rows: a share by Tango's interval, a mean by the normal one.

        Raises:
            ValueError: the two are not of the same rows.
        """
        worse, than = self._pairs(before, after)
        if self.unit == SHARE:
            return stats.paired_shares([bool(v) for v in worse], [bool(v) for v in than], confidence)
        return stats.paired_mean(worse, than, confidence)

    def _pairs(self, before: Measurement, after: Measurement) -> tuple[list[float], list[float]]:
        """Return two lists of which the first minus the second is by how much ``after`` is worse."""
        earlier, later = self.reading(before), self.reading(after)
        # Rows that were measured only once say nothing of a change: no rows, which the gate calls inconclusive.
        one, other = (earlier.rows, later.rows) if earlier and later else ([], [])
        return (other, one) if self.better == "lower" else (one, other)

    def changes(self, before: Measurement, after: Measurement, gate: GateConfig, confidence: float) -> dict[str, Paired]:
        """Return the paired change under this measure's own name."""
        return {self.change_field or self.name: self.change(before, after, confidence)}

    def checks(self, before: Measurement | None, after: Measurement, gate: GateConfig, confidence: float) -> list[GateCheck]:
        """Return the one check that this measure has, none where it has no limit or nothing to be compared with."""
        limit = self.limit_in(gate)
        if limit is None:
            return []
        if self.gated_on == "value":
            return [self._check_value(after, limit, confidence)]
        if before is None:
            return []
        worse, than = self._pairs(before, after)
        found = self.change(before, after, confidence)
        if self.unit == SHARE:
            return [stats.check(self.check_name, found, limit, stats.projected_shares(worse, than, confidence))]
        return [stats.check(self.check_name, found, limit, stats.projected_means(worse, than, confidence), least=2)]

    def _check_value(self, found: Measurement, limit: float, confidence: float) -> GateCheck:
        reading = self.reading(found)
        rows = reading.rows if reading else []
        if self.unit == SHARE:
            return stats.check_rate(self.check_name, stats.wilson(sum(map(bool, rows)), len(rows), confidence), limit, confidence)
        none = [0.0] * len(rows)
        bounds = stats.projected_means(rows, none, confidence)
        return stats.check(self.check_name, stats.paired_mean(rows, none, confidence), limit, bounds, least=2)

    def rows(self, report: Report) -> list[Row]:
        """Return one line: the value before and after, the change, the check."""
        check = check_named(report, self.check_name)
        before, after = _cell(self.reading(report.before)), _cell(self.reading(report.after))
        return [Row(self.group, self.title, before, after, self._change_cell(report), check, self.unit)]

    def _change_cell(self, report: Report) -> Cell | None:
        found = getattr(report, self.change_field) if self.change_field else report.changes.get(self.name)
        return points_cell(found, self.unit)

    def metrics(self, found: Measurement) -> dict[str, float]:
        """Return the value."""
        reading = self.reading(found)
        return {self.name: reading.value} if reading else {}


class Recorded(RowMeasure):
    """A measure known from a report alone, since the package that brought it is not installed here."""

    def __init__(self, name: str, reading: Reading) -> None:
        """Take from ``reading`` what it says of its measure."""
        self.name, self.title, self.unit, self.better = name, reading.title, reading.unit, reading.better  # type: ignore[misc]
        self.check = reading.check


def check_named(report: Report, name: str) -> GateCheck | None:
    """Return the gate's check of exactly this name."""
    return next((check for check in report.gate.checks if check.name == name), None)


def _cell(reading: Reading | None) -> Cell | None:
    return interval_cell(reading.value, reading.low, reading.high, reading.n, reading.unit) if reading else None
