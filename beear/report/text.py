"""The before/after table for a terminal."""

import io

from rich.console import Console
from rich.table import Table
from rich.text import Text

from beear.records.display import Cell, Row
from beear.records.report import Report
from beear.report.table import table, unplaced
from beear.report.words import BADGES

_STYLES = {"passed": "green", "refused": "red", "inconclusive": "yellow", "measured": "cyan"}


def summary(report: Report, *, where: dict[str, str] | None = None, colour: bool = False, width: int = 110) -> str:
    """Return the verdict, the table and where everything is, as text.

    Args:
        report: what to show.
        where: label to path or address, printed last.
        colour: style with terminal codes; False gives plain text.
        width: columns available.
    """
    target = io.StringIO()
    console = Console(
        file=target,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
        emoji=False,
        markup=False,
    )
    console.print(_table(report))
    for check in unplaced(report):
        console.print(_clean(f"{check.name}: {check.verdict}"))
    badge = BADGES[report.gate.verdict]
    console.print(
        Text.assemble(
            (f"{badge.symbol} {badge.word}", f"bold {_STYLES[report.gate.verdict]}"), "  ", _clean(report.gate.sentence)
        )
    )
    for label, place in (where or {}).items():
        console.print(Text(f"{label:<10} {place}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()) + "\n"


def _table(report: Report) -> Table:
    rows, both = table(report), report.after is not None
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("", min_width=12)
    for title in ["before" if both else "measured", *(["after", "worse by"] if both else []), "limit", "check"]:
        made.add_column(title, no_wrap=title in ("limit", "check"))
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            made.add_row(Text(group.partition(":")[0], style="bold"))
        made.add_row(*_cells(row, both))
    return made


def _cells(row: Row, both: bool) -> list[Text]:
    cells = [Text("· " + _clean(row.name)), Text(_full(row.before))]
    if both:
        cells += [Text(_full(row.after)), Text(row.change.full if row.change else "")]
    verdict = row.check.verdict if row.check else ""
    return [*cells, Text(row.limit), Text(verdict, style=_STYLES.get(verdict, ""))]


def _full(cell: Cell | None) -> str:
    return cell.full if cell else "–"


def _clean(text: str) -> str:
    """Take control characters out: a report's strings are hostile, and a terminal obeys some of them."""
    return "".join(c if c.isprintable() else " " for c in text)
