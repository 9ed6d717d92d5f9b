"""Chart geometry: numbers in, pixel positions out. The template draws them, so that every label is escaped there.

The drawing area is small (420 by 250 units) so that type stays readable when a chart fills a phone's width.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from beear.records.display import Series, number

WIDTH, HEIGHT = 420.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 12.0, 36.0
MARKERS = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Tick:
    """An axis tick: its position and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Drawn:
    """A series in pixels: an SVG path through ``points`` and the points themselves."""

    name: str
    path: str
    points: list[tuple[float, float]]
    colour: int
    dashed: bool
    marker: str


@dataclass(frozen=True)
class Chart:
    """Everything the template needs to draw one chart."""

    title: str
    x_label: str
    y_label: str
    note: str
    series: list[Drawn]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    rules: list[tuple[float, str]] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    scatter: bool = False


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers (1, 2 or 5 times a power of ten apart) that cover ``low`` to ``high`` from within."""
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _range(values: Iterable[float], fixed: tuple[float, float] | None, margin: float) -> tuple[float, float]:
    if fixed:
        return fixed
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    if high - low <= 1e-9 * max(1.0, abs(high)):
        pad = 0.5 * max(1.0, abs(high))
        return low - pad, high + pad
    return low - margin * (high - low), high + margin * (high - low)


def _ticks(low: float, high: float, scale: float, offset: float, whole: bool) -> list[Tick]:
    values = [v for v in ticks(low, high) if not whole or abs(v - round(v)) < 1e-9]
    step = values[1] - values[0] if len(values) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [Tick(offset + scale * (v - low), number(v, digits)) for v in values]


def chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    note: str = "",
    y_range: tuple[float, float] | None = None,
    rules: Sequence[tuple[float, str]] = (),
    marks: Sequence[tuple[float, str]] = (),
    scatter: bool = False,
) -> Chart:
    """Lay a chart out.

    Args:
        title: what is shown.
        x_label: name and unit of the horizontal axis; ticks are whole numbers unless ``scatter``.
        y_label: name and unit of the vertical axis.
        series: the lines or clouds; points that are not finite are left out.
        note: one sentence under the title.
        y_range: fixed vertical range in data units.
        rules: horizontal lines, each (y, label), such as a limit.
        marks: vertical lines, each (x, label), such as a crossing.
        scatter: draw points without lines.
    """
    points = [(x, y) for s in series for x, y in zip(s.x, s.y, strict=False) if math.isfinite(x) and math.isfinite(y)]
    x_low, x_high = _range([x for x, _ in points], None, 0.05 if scatter else 0.02)
    y_low, y_high = _range([y for _, y in points] + [y for y, _ in rules], y_range, 0.06)
    x_scale = (WIDTH - LEFT - RIGHT) / (x_high - x_low)
    y_scale = (HEIGHT - TOP - BOTTOM) / (y_high - y_low)

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + x_scale * (x - x_low), HEIGHT - BOTTOM - y_scale * (y - y_low)

    drawn = []
    for index, one in enumerate(series):
        pairs = [(x, y) for x, y in zip(one.x, one.y, strict=False) if math.isfinite(x) and math.isfinite(y)]
        pixels = [place(x, y) for x, y in pairs]
        path = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(pixels))
        drawn.append(
            Drawn(
                one.name,
                path,
                pixels,
                one.colour,
                one.dashed,
                MARKERS[(one.colour if scatter else index) % len(MARKERS)],
            )
        )
    return Chart(
        title, x_label, y_label, note, drawn,
        _ticks(x_low, x_high, x_scale, LEFT, whole=not scatter),
        _ticks(y_low, y_high, -y_scale, HEIGHT - BOTTOM, whole=False),
        [(place(0, y)[1], text) for y, text in rules],
        [(place(x, 0)[0], text) for x, text in marks], scatter,
    )  # fmt: skip
