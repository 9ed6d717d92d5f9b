"""How results are shown: table rows, charts and numbers as plain data, which page, model card and terminal draw alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from beear.records.report import GateCheck, Paired, Rate

NONE = "–"
# The unit of a share of rows, written as per cent. Any other unit is written after the number.
SHARE = "share"
# Places in the charts' palette, which colour-blind readers can tell apart.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = range(6)


@dataclass(frozen=True)
class Cell:
    """One measured value: the number, its interval and how many rows it rests on (empty where there is none)."""

    value: str
    interval: str = ""
    n: int | None = None

    @property
    def full(self) -> str:
        """Value and interval on one line."""
        return f"{self.value} ({self.interval})" if self.interval else self.value


@dataclass(frozen=True)
class Row:
    """One line of the before/after table.

    ``before`` and ``after`` are None where nothing was measured. ``change`` is the paired change, ``check`` the gate's check
    on this line, ``unit`` that of the check.
    """

    group: str
    name: str
    before: Cell | None
    after: Cell | None = None
    change: Cell | None = None
    check: GateCheck | None = None
    unit: str = SHARE

    @property
    def limit(self) -> str:
        """The check's limit in words, empty where nothing is checked."""
        return f"≤ {amount(self.check.limit, self.unit)}" if self.check else ""


@dataclass(frozen=True)
class Series:
    """One named line or cloud.

    ``colour`` is a place in the palette. Markers and dashes tell the series apart without colour. The points of a dashed
    cloud are hollow.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Figure:
    """A line chart before it is laid out. ``rules`` are horizontal lines, each (y, label)."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    note: str = ""
    rules: Sequence[tuple[float, str]] = ()


def number(value: float | None, digits: int = 2) -> str:
    """Return ``value`` with ``digits`` decimals and a true minus sign, or a dash where it is not finite."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as per cent; a share that only rounds to 0 or 100 is written ``<0.1`` or ``>99.9``."""
    if value is None or not math.isfinite(value):
        return NONE
    edge = 10**-digits
    if 0 < 100 * value < edge / 2:
        return f"<{edge:.{digits}f}%"
    if 100 - edge / 2 < 100 * value < 100:
        return f">{100 - edge:.{digits}f}%"
    return f"{number(100 * value, digits)}%"


def amount(value: float, unit: str) -> str:
    """Return a value with its unit: a share as per cent, anything else with three decimals."""
    return percent(value) if unit == SHARE else f"{number(value, 3)} {unit}".rstrip()


def interval_cell(value: float, low: float, high: float, n: int, unit: str) -> Cell:
    """Return a value in ``unit`` with its interval."""
    if unit == SHARE:
        return Cell(percent(value), f"{percent(low).removesuffix('%')}–{percent(high)}", n)
    return Cell(amount(value, unit), f"{number(low, 3)}–{number(high, 3)}", n)


def rate_cell(rate: Rate | None) -> Cell | None:
    """Return a rate as per cent with its Wilson interval."""
    return None if rate is None else interval_cell(rate.rate, rate.low, rate.high, rate.n, SHARE)


def points_cell(paired: Paired | None, unit: str = SHARE) -> Cell | None:
    """Return a paired difference (positive is worse): of shares in percentage points (pp), else in ``unit``."""
    if paired is None:
        return None
    scale, digits, shown = (100, 1, "pp") if unit == SHARE else (1, 3, unit)
    sign = "+" if number(scale * paired.difference, digits).strip("0.") and paired.difference > 0 else ""
    span = f"{number(scale * paired.low, digits)}…{number(scale * paired.high, digits)}"
    return Cell(f"{sign}{number(scale * paired.difference, digits)} {shown}".rstrip(), span, paired.n)


def duration(seconds: float) -> str:
    """Return a wall time such as ``3 min 12 s``."""
    if not math.isfinite(seconds) or seconds < 0:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
