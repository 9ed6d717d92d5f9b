"""Rates, paired differences and the rows it takes to decide. Pure functions on counts.

Sources: Wilson 1927 for one proportion; Tango 1998 (Statistics in Medicine 17, 891-908) for the difference of paired
proportions, a score interval that keeps its width when no pair differs, where Wald's and Newcombe's collapse.
"""

from collections.abc import Callable, Sequence
from math import sqrt
from statistics import NormalDist, fmean, stdev

from beear.records.report import GateCheck, Mean, Paired, Rate, Verdict

ROWS_CAP = 10_000_000

# An interval's ends, projected to a number of rows by the shares that were seen.
Bounds = Callable[[float], tuple[float, float]]


def quantile(confidence: float) -> float:
    """Return z, the two-sided standard normal quantile of ``confidence``."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson_bounds(hits: float, n: float, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion; ``hits`` may be fractional, as for a projected sample."""
    if n <= 0:
        return 0.0, 1.0
    z, share = quantile(confidence), hits / n
    centre = share + z * z / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if hits <= 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if hits >= n else min(1.0, (centre + half) / scale)
    return low, high


def wilson(hits: int, n: int, confidence: float) -> Rate:
    """Return ``hits`` of ``n`` as a rate with Wilson's interval; no rows leave it anywhere in [0, 1]."""
    low, high = wilson_bounds(hits, n, confidence)
    return Rate(hits=hits, n=n, rate=hits / n if n else 0.0, low=low, high=high)


def mean(values: Sequence[float], confidence: float) -> Mean:
    """Return the mean of ``values`` with its normal interval; fewer than two values have no finite width: zero."""
    centre = fmean(values) if values else 0.0
    half = quantile(confidence) * stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0
    return Mean(mean=centre, low=centre - half, high=centre + half, n=len(values))


def tango_bounds(worse: float, better: float, n: float, confidence: float) -> tuple[float, float]:
    """Return Tango's score interval for (worse - better) / n.

    ``worse`` and ``better`` count the discordant pairs of ``n``; fractional counts stand for a projected sample.
    """
    if n <= 0:
        return -1.0, 1.0
    z, observed = quantile(confidence), (worse - better) / n

    def score(difference: float) -> float:
        return _tango_score(difference, worse, better, n)

    low = _root(lambda d: score(d) - z, -1.0, observed)
    high = _root(lambda d: score(d) + z, observed, 1.0)
    return low, high


def _tango_score(difference: float, worse: float, better: float, n: float) -> float:
    """Return the score statistic for H0: p_worse - p_better = ``difference``; it falls as the difference grows."""
    a, c = 2 * n, -better * difference * (1 - difference)
    b = -worse - better + (2 * n - worse + better) * difference
    nuisance = (sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * nuisance + difference * (1 - difference))
    distance = worse - better - n * difference
    if variance <= 0:
        return 0.0 if distance == 0 else float("inf") * (1 if distance > 0 else -1)
    return distance / sqrt(variance)


def _root(falling: Callable[[float], float], left: float, right: float) -> float:
    for _ in range(100):
        middle = (left + right) / 2
        if falling(middle) > 0:
            left = middle
        else:
            right = middle
    return (left + right) / 2


def paired_shares(worse: Sequence[bool], than: Sequence[bool], confidence: float) -> Paired:
    """Return share(worse) - share(than) over the same rows, with Tango's interval.

    For a loss of exact matches pass (before, after); for a rise of refusals pass (after, before): positive is worse.

    Raises:
        ValueError: the two lists differ in length, so that they cannot be the same rows.
    """
    if len(worse) != len(than):
        raise ValueError(f"paired difference: {len(worse)} rows against {len(than)}; expected the same rows")
    n = len(worse)
    up = sum(w and not t for w, t in zip(worse, than, strict=True))
    down = sum(t and not w for w, t in zip(worse, than, strict=True))
    low, high = tango_bounds(up, down, n, confidence)
    return Paired(difference=(up - down) / n if n else 0.0, low=low, high=high, n=n)


def paired_mean(after: Sequence[float], before: Sequence[float], confidence: float) -> Paired:
    """Return mean(after - before) over the same rows with its normal interval (for losses: positive is worse).

    Fewer than two rows have no spread to judge by; the gate calls that inconclusive.

    Raises:
        ValueError: the two lists differ in length, so that they cannot be the same rows.
    """
    if len(after) != len(before):
        raise ValueError(f"paired difference: {len(after)} rows against {len(before)}; expected the same rows")
    found = mean([a - b for a, b in zip(after, before, strict=True)], confidence)
    return Paired(difference=found.mean, low=found.low, high=found.high, n=found.n)


def rows_needed(bounds: Bounds, limit: float, start: int = 1) -> int | None:
    """Return the fewest rows n for which ``bounds(n)`` lies on one side of ``limit``, or None if no number does.

    ``bounds`` projects the observed shares to n rows. For 0 hits at 95%: 73 for a limit of 5%, 189 for 2%, 381 for 1%.
    """

    def decided(n: int) -> bool:
        low, high = bounds(n)
        return high <= limit or low > limit

    high = max(start, 1)
    while not decided(high):
        high *= 2
        if high > ROWS_CAP:
            return None
    low = max(start, 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle + 1, high)
    return low


def check(name: str, found: Paired, limit: float, bounds: Bounds, least: int = 1) -> GateCheck:
    """Compare an interval with a limit, as the gate does.

    *Passed*: the upper bound is within the limit. *Refused*: the lower bound is beyond it. Else *inconclusive*, with the rows
    that could decide by ``bounds``; so too where there are fewer than ``least`` rows.
    """
    verdict: Verdict = "inconclusive"
    if found.n >= least:
        verdict = "passed" if found.high <= limit else "refused" if found.low > limit else "inconclusive"
    return GateCheck(
        name=name,
        value=found.difference,
        low=found.low,
        high=found.high,
        limit=limit,
        n=found.n,
        verdict=verdict,
        rows_needed=rows_needed(bounds, limit, max(found.n, least)) if verdict == "inconclusive" else None,
    )


def check_rate(name: str, rate: Rate, limit: float, confidence: float) -> GateCheck:
    """Compare a rate, rather than a change, with its limit."""
    found = Paired(difference=rate.rate, low=rate.low, high=rate.high, n=rate.n)
    return check(name, found, limit, lambda n: wilson_bounds(rate.rate * n, n, confidence))


def projected_shares(worse: Sequence[float], than: Sequence[float], confidence: float) -> Bounds:
    """Return the projection of :func:`paired_shares` over these rows."""
    n = max(len(worse), 1)
    up = sum(bool(w and not t) for w, t in zip(worse, than, strict=True)) / n
    down = sum(bool(t and not w) for w, t in zip(worse, than, strict=True)) / n
    return lambda rows: tango_bounds(up * rows, down * rows, rows, confidence)


def projected_means(after: Sequence[float], before: Sequence[float], confidence: float) -> Bounds:
    """Return the projection of :func:`paired_mean` over these rows."""
    rises = [a - b for a, b in zip(after, before, strict=True)]
    centre = sum(rises) / max(len(rises), 1)
    spread = quantile(confidence) * (stdev(rises) if len(rises) > 1 else 0.0)
    return lambda rows: (centre - spread / rows**0.5, centre + spread / rows**0.5)
