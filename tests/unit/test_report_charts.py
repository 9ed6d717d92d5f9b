"""Chart geometry: data land where the axes say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beear.records.display import Series
from beear.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, chart, ticks
from beear.report.figures import figures
from tests.report_sample import sample_report

FINITE = st.floats(-1e9, 1e9, allow_nan=False)


@given(FINITE, st.floats(1e-6, 1e9))
def test_ticks_are_round_and_inside(low: float, width: float) -> None:
    high = low + width
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return
    found = ticks(low, high)
    slack = 1e-6 * (high - low) + 1e-9 * abs(low)
    assert 1 <= len(found) <= 8
    assert all(low - slack <= value <= high + slack for value in found)
    if len(found) > 1:
        step = found[1] - found[0]
        mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
        assert min(abs(mantissa - round_one) for round_one in (1, 2, 5, 10)) < 0.05 + 1e-6 * abs(low) / step


def test_known_ticks() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-3, 17) == pytest.approx([0, 5, 10, 15])


def test_points_are_placed_linearly() -> None:
    made = chart("t", "x", "y", [Series("a", [0, 5, 10], [0.0, 0.5, 1.0])], y_range=(0.0, 1.0))
    (x0, y0), (x1, y1), (x2, y2) = made.series[0].points
    assert y0 == pytest.approx(HEIGHT - BOTTOM) and y2 == pytest.approx(TOP)
    assert x1 - x0 == pytest.approx(x2 - x1) and y1 == pytest.approx((y0 + y2) / 2)
    zero = next(tick for tick in made.y_ticks if tick.text == "0.0")
    assert zero.at == pytest.approx(y0)


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=20))
def test_any_numbers_stay_inside_the_frame(points: list[tuple[float, float]]) -> None:
    points = [(x, y) for x, y in points if abs(x) < 1e100 and abs(y) < 1e100 or math.isnan(x)]
    made = chart("t", "x", "y", [Series("a", [x for x, _ in points], [y for _, y in points])], scatter=True)
    for x, y in made.series[0].points:
        assert LEFT - 1 <= x <= WIDTH - RIGHT + 1 and TOP - 1 <= y <= HEIGHT - BOTTOM + 1


def test_a_report_gives_each_kind_of_chart() -> None:
    titles = [one.title for one in figures(sample_report())]
    assert titles[:2] == ["ASR by epoch", "Losses by epoch"] and titles[-1] == "Hidden states"
    assert sum(title.startswith("Inner loop") for title in titles) == 3
    assert sum(title.startswith("Entrapment resistance") for title in titles) == 2


def test_the_crossing_is_marked_where_the_curves_cross() -> None:
    made = next(one for one in figures(sample_report()) if one.title.startswith("Inner loop, epoch 1"))
    ((at, _),) = made.marks
    unwanted, safe = (dict(series.points) for series in made.series)
    before = [x for x in unwanted if x < at - 1e-6]
    assert all(unwanted[x] <= safe[x] for x in before)  # a smaller y pixel is a larger loss
    assert unwanted[min(unwanted, key=lambda x: abs(x - at))] > safe[min(safe, key=lambda x: abs(x - at))]
