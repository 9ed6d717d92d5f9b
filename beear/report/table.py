"""The before/after table: the page, the model card and the terminal all print these rows."""

from beear.evaluation.measures.table import measures_of
from beear.records.display import Row, amount, percent
from beear.records.report import GateCheck, Report


def table(report: Report) -> list[Row]:
    """Return the rows of every measure in reading order, without those that were not measured."""
    return [row for one in measures_of(report) for row in one.rows(report) if row.before or row.after]


def limits(report: Report) -> dict[str, str]:
    """Return the limit of each of the gate's checks in words, by the check's name; the table's rows know the units."""
    known = {row.check.name: amount(row.check.limit, row.unit) for row in table(report) if row.check}
    return {check.name: known.get(check.name, percent(check.limit)) for check in report.gate.checks}


def unplaced(report: Report) -> list[GateCheck]:
    """Return the gate's checks that no row of :func:`table` shows."""
    placed = {id(row.check) for row in table(report) if row.check}
    return [check for check in report.gate.checks if id(check) not in placed]
