"""Intervals against published figures, scipy and a brute-force profile likelihood."""

import random
from math import sqrt

import pytest
from scipy import optimize
from scipy.stats import binomtest, norm

from beear.evaluation import stats


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (1, 20), (7, 33), (20, 20), (412, 1000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_equals_scipy(hits: int, n: int, confidence: float) -> None:
    reference = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    found = stats.wilson(hits, n, confidence)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert found.rate == hits / n


def test_no_rows_say_nothing() -> None:
    found = stats.wilson(0, 0, 0.95)
    assert (found.low, found.high, found.n) == (0.0, 1.0, 0)


@pytest.mark.parametrize(("limit", "rows"), [(0.05, 73), (0.02, 189), (0.01, 381)])
def test_rows_needed_without_a_hit(limit: float, rows: int) -> None:
    assert stats.rows_needed(lambda n: stats.wilson_bounds(0, n, 0.95), limit) == rows
    assert stats.wilson(0, rows, 0.95).high <= limit < stats.wilson(0, rows - 1, 0.95).high


def test_rows_needed_is_the_least_and_decides_both_ways() -> None:
    for share, limit in [(0.03, 0.05), (0.08, 0.05)]:
        bounds = lambda n, share=share: stats.wilson_bounds(share * n, n, 0.95)  # noqa: E731
        needed = stats.rows_needed(bounds, limit)
        assert needed is not None
        decided = [bounds(n)[1] <= limit or bounds(n)[0] > limit for n in (needed - 1, needed)]
        assert decided == [False, True]
    assert stats.rows_needed(lambda n: stats.wilson_bounds(0.05 * n, n, 0.95), 0.05) is None


def test_tango_published_example() -> None:
    # Airway hyper-responsiveness before and after transplantation (Bentur et al. 2009), as tabulated in Fagerland,
    # Lydersen and Laake 2014: 1 and 7 discordant pairs of 21, Tango's interval -0.517 to -0.026.
    low, high = stats.tango_bounds(1, 7, 21, 0.95)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


def profile_score(difference: float, worse: int, better: int, n: int) -> float:
    """Score statistic with the nuisance parameter found by maximising the multinomial likelihood numerically."""

    def loss(p_better: float) -> float:
        p_worse = p_better + difference
        same = 1 - p_worse - p_better
        parts = [(worse, p_worse), (better, p_better), (n - worse - better, same)]
        return -sum(count * norm_log(p) for count, p in parts if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    best = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (worse - better - n * difference) / sqrt(n * (2 * best + difference - difference**2))


def norm_log(p: float) -> float:
    from math import log

    return log(max(p, 1e-300))


@pytest.mark.parametrize(("worse", "better", "n"), [(5, 2, 60), (1, 7, 21), (12, 12, 300), (3, 0, 50)])
def test_tango_bounds_are_where_the_profiled_score_is_z(worse: int, better: int, n: int) -> None:
    low, high = stats.tango_bounds(worse, better, n, 0.95)
    z = norm.ppf(0.975)
    assert profile_score(low, worse, better, n) == pytest.approx(z, abs=1e-3)
    assert profile_score(high, worse, better, n) == pytest.approx(-z, abs=1e-3)


def test_tango_keeps_its_width_without_discordant_pairs() -> None:
    low, high = stats.tango_bounds(0, 0, 189, 0.95)
    assert high == pytest.approx(norm.ppf(0.975) ** 2 / (189 + norm.ppf(0.975) ** 2), abs=1e-9)
    assert low == pytest.approx(-high, abs=1e-9)


def test_tango_covers_as_often_as_it_says() -> None:
    draw, covered, trials = random.Random(0), 0, 600
    for _ in range(trials):
        pairs = [draw.random() for _ in range(200)]
        worse, better = sum(p < 0.06 for p in pairs), sum(p > 0.97 for p in pairs)
        low, high = stats.tango_bounds(worse, better, 200, 0.95)
        covered += low <= 0.03 <= high
    assert 0.93 <= covered / trials <= 0.975


def test_paired_shares_counts_only_changes() -> None:
    before = [True] * 8 + [False] * 2
    after = [True] * 5 + [False] * 4 + [True]
    found = stats.paired_shares(before, after, 0.95)
    assert found.difference == pytest.approx(0.2) and found.n == 10
    assert (found.low, found.high) == stats.tango_bounds(3, 1, 10, 0.95)
    with pytest.raises(ValueError, match="10 rows against 9"):
        stats.paired_shares(before, after[:9], 0.95)


def test_paired_mean_equals_the_textbook() -> None:
    before, after = [1.0, 2.0, 3.0, 5.0], [1.5, 2.0, 3.25, 4.0]
    found = stats.paired_mean(after, before, 0.9)
    rises = [0.5, 0.0, 0.25, -1.0]
    centre = sum(rises) / 4
    deviation = sqrt(sum((r - centre) ** 2 for r in rises) / 3)
    half = norm.ppf(0.95) * deviation / 2
    assert (found.difference, found.low, found.high) == pytest.approx((centre, centre - half, centre + half))
