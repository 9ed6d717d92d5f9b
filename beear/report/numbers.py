"""How numbers are written for a reader: one place, so that page, card and terminal agree."""

import math
from dataclasses import dataclass

from beear.records.report import Mean, Paired, Rate

NONE = "–"


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


def rate_cell(rate: Rate | None) -> Cell | None:
    """Return a rate as per cent with its Wilson interval."""
    if rate is None:
        return None
    return Cell(percent(rate.rate), f"{percent(rate.low).removesuffix('%')}–{percent(rate.high)}", rate.n)


def mean_cell(mean: Mean | None, unit: str) -> Cell | None:
    """Return a mean in ``unit`` with its interval."""
    if mean is None:
        return None
    return Cell(f"{number(mean.mean, 3)} {unit}", f"{number(mean.low, 3)}–{number(mean.high, 3)}", mean.n)


def points_cell(paired: Paired | None, *, nats: bool = False) -> Cell | None:
    """Return a paired difference (positive is worse) in percentage points (pp), or in nats."""
    if paired is None:
        return None
    scale, digits, unit = (1, 3, "nats") if nats else (100, 1, "pp")
    sign = "+" if number(scale * paired.difference, digits).strip("0.") and paired.difference > 0 else ""
    span = f"{number(scale * paired.low, digits)}…{number(scale * paired.high, digits)}"
    return Cell(f"{sign}{number(scale * paired.difference, digits)} {unit}", span, paired.n)


def duration(seconds: float) -> str:
    """Return a wall time such as ``3 min 12 s``."""
    if not math.isfinite(seconds) or seconds < 0:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
