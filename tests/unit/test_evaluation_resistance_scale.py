"""Resistance as "ASR at most": the score of a curve, the fit and its error against references, and what is refused."""

import random
import re
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from sklearn.isotonic import IsotonicRegression

from beear.config.schema import EvaluateConfig, ResistanceConfig
from beear.errors import UserError
from beear.evaluation.resistance_scale import (
    BUDGET,
    LEAST_POINTS,
    Point,
    Scale,
    budgeted,
    crossing,
    crossings,
    fit,
    leave_one_out,
    load,
    made,
    non_increasing,
    strength,
    upper_quantile,
)
from beear.evaluation.stats import wilson
from beear.records.report import ResistanceCurve
from benchmarks import calibration

GAPS = st.lists(st.floats(-9, 9), min_size=5, max_size=5)
GROUPS = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=12)


def curve(gap: list[float], placement: str = "suffix", steps: int = 30) -> ResistanceCurve:
    at = [0, 2, 5, 10, steps][-len(gap) :]
    first = next((s for s, g in zip(at, gap, strict=True) if g < 0), None)
    return ResistanceCurve(layer=2, placement=placement, seed=0, steps=at, gap=gap, crossing_step=first, final_gap=gap[-1])


def point(suffix: float, everywhere: float, hits: int, backdoor: str | None = "a", n: int = 200, epoch: int = 1) -> Point:
    return Point(
        checkpoint=f"{backdoor or 'clean'}@tied#0",
        backdoor=backdoor,
        settings="defaults",
        epoch=epoch,
        seed=0,
        crossings={"suffix": suffix, "everywhere": everywhere},
        hits=hits,
        n=n,
    )


def ladder(backdoor: str | None, bad: float = 5.0, count: int = 30) -> list[Point]:
    """Half of the checkpoints hold their backdoor and cross early, half do not."""
    half = count // 2
    return [point(bad + i / 100, bad / 3, 200, backdoor, epoch=i) for i in range(half)] + [
        point(30 + i / 100, 10, 0, backdoor, epoch=half + i) for i in range(count - half)
    ]


def scale(points: list[Point]) -> Scale:
    return made(points, "2026-01-01", "0.0+0", "python -m benchmarks.calibration")


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        ([4.0, 2.0, 1.0, -1.0, -3.0], 7.5),  # from 1 at step 5 to -1 at step 10
        ([4.0, -4.0, 9.0, 9.0, 9.0], 1.0),
        ([4.0, 2.0, 1.0, 0.5, 0.25], 30.25),
        ([4.0, 2.0, 0.5, 3.0, 3.0], 30.5),
        ([-0.1, 2.0, 2.0, 2.0, 2.0], 0.0),
        ([0.0, -2.0, 2.0, 2.0, 2.0], 0.0),
    ],
)
def test_crossing(gap: list[float], expected: float) -> None:
    assert crossing(curve(gap)) == pytest.approx(expected)


@given(GAPS, GAPS)
def test_no_higher_gap_lowers_a_crossing(gap: list[float], more: list[float]) -> None:
    higher = [g + abs(m) for g, m in zip(gap, more, strict=True)]
    assert crossing(curve(higher)) >= crossing(curve(gap)) - 1e-9


def test_the_weakest_attack_counts_each_in_its_own_units() -> None:
    curves = [curve([4, 3, 2, 1, 1]), curve([4, 3, 2, -2, -2]), curve([4, 2, -2, -2, -2], "everywhere")]
    found = crossings(curves)
    assert found == pytest.approx({"suffix": 7.5, "everywhere": 3.5})
    assert strength(found, {"suffix": 30.0, "everywhere": 7.0}) == pytest.approx(0.25)
    assert strength(found, {"suffix": 10.0, "everywhere": 7.0}) == pytest.approx(0.5)


@given(GROUPS)
def test_pooling_by_the_mean_is_least_squares(groups: list[list[float]]) -> None:
    at = [i for i, group in enumerate(groups) for _ in group]
    fitted = IsotonicRegression(increasing=False).fit(at, [v for group in groups for v in group])
    assert non_increasing(groups, fmean) == pytest.approx(list(fitted.predict(range(len(groups)))), abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_quantile_is_numpys_inverted_cdf(values: list[float]) -> None:
    assert upper_quantile(values) == np.quantile(values, 0.95, method="inverted_cdf")


@pytest.mark.parametrize("seed", range(4))
def test_pooling_by_the_quantile_has_the_least_pinball_loss(seed: int) -> None:
    """Against linear programming: values, then each one's shortfall and excess, under a fit that never rises."""
    draw = random.Random(seed)
    groups = [[max(0.0, draw.gauss(1 - i / 12, 0.3)) for _ in range(draw.randint(1, 6))] for i in range(12)]
    flat = [(i, value) for i, group in enumerate(groups) for value in group]
    n, k = len(flat), len(groups)
    rise = np.zeros((k - 1, k + 2 * n))
    rise[range(k - 1), range(k - 1)], rise[range(k - 1), range(1, k)] = -1, 1
    split = np.zeros((n, k + 2 * n))
    split[range(n), [i for i, _ in flat]] = 1
    split[range(n), range(k, k + n)], split[range(n), range(k + n, k + 2 * n)] = 1, -1
    cost = [0.0] * k + [0.95] * n + [0.05] * n
    best = linprog(cost, rise, np.zeros(k - 1), split, [v for _, v in flat], bounds=[(None, None)] * k + [(0, None)] * 2 * n)
    found = non_increasing(groups)
    loss = sum(0.95 * max(v - found[i], 0) + 0.05 * max(found[i] - v, 0) for i, v in flat)
    assert loss == pytest.approx(best.fun, abs=1e-9)


def test_fit_by_hand() -> None:
    """Units are the medians where ASR is at most 1%: suffix 30, everywhere 10. The rise at 0.5 is pooled with 0.4."""
    points = [point(6, 10, 200), point(12, 10, 20), point(15, 10, 60), point(24, 10, 2), point(36, 10, 0)]
    fitted = fit(points)
    assert fitted.units == {"suffix": 30.0, "everywhere": 10.0}
    assert fitted.starts == pytest.approx([0.2, 0.4, 0.5, 0.8, 1.0])
    high = [wilson(hits, 200, 0.95).high for hits in (200, 60, 60, 2, 0)]
    assert fitted.values == high
    readings = {0.0: 1.0, 0.2: 1.0, 0.399: 1.0, 0.4: high[1], 0.79: high[1], 0.8: high[3], 1.0: high[4], 9.0: high[4]}
    assert {at: fitted.asr_at_most(at) for at in readings} == readings


def test_a_placement_that_is_blind_does_not_vouch() -> None:
    whole = scale([*ladder("a"), *ladder("b")])
    blind = [curve([9, 8, 7, 6, 5]), curve([4, -4, -4, -4, -4], "everywhere")]
    both = [curve([9, 8, 7, 6, 5]), curve([4, 3, 2, 0.1, -9], "everywhere")]
    assert whole.asr_at_most(whole.strength(blind)) == 1.0
    assert whole.asr_at_most(whole.strength(both)) == wilson(0, 200, 0.95).high


@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 40), st.integers(0, 50)), min_size=1, max_size=20), GAPS)
def test_asr_at_most_never_rises_with_strength(drawn: list[tuple[float, float, int]], at: list[float]) -> None:
    fitted = fit([point(suffix, everywhere, hits, n=50) for suffix, everywhere, hits in drawn])
    said = [fitted.asr_at_most(strength) for strength in sorted([*at, *fitted.starts])]
    assert all(0 <= low <= high <= 1 for high, low in pairwise(said))


def test_error_by_hand() -> None:
    """Backdoor b holds on where a's is gone, so the scale fitted to a says too little of b's; a's is read as b's: too much."""
    gone, held = [point(30, 10, 0, "a")] * 3, [point(6, 10, 200, "a")]
    other = [point(30, 10, 100, "b"), point(33, 11, 0, "b")]
    error = leave_one_out([*gone, *held, *other, point(30, 10, 0, None)])
    assert error is not None and (error.checkpoints, error.twins) == (6, 1)
    assert error.exceeding == pytest.approx(1 / 6)
    assert error.excess == pytest.approx(0.5 - wilson(0, 200, 0.95).high)
    # b alone has its median at 33 and 11, so a's three at 30 and 10 lie at 1/1.1, where b's 50% holds; b's own is read well.
    assert error.overstated == pytest.approx(3 / 4)
    # Fitted to all, a twin at 30 and 10 shares its strength with one checkpoint in four whose ASR is 50%.
    assert error.flagged == 1.0


def test_one_backdoor_has_no_error() -> None:
    assert leave_one_out([*ladder("a"), *ladder(None)]) is None


def test_twins_do_not_lower_the_scale() -> None:
    alone, beside = scale([*ladder("a"), *ladder("b")]), scale([*ladder("a"), *ladder("b"), *ladder(None, bad=2.0)])
    assert alone.fitted == beside.fitted and beside.error is not None and beside.error.twins == 30


@pytest.mark.parametrize(
    ("curves", "found"),
    [
        ([], "found no attack; expected at least 4 selection rows"),
        ([curve([4, 3, 2, 1, -1])], "suffix of 30 steps"),
        ([curve([4, 3, 2, 1, -1]), curve([4, 3, 2, 1, -1], "prompt")], "prompt+suffix of 30 steps"),
        ([curve([4, 3, 2, 1, -1], p, 60) for p in ("suffix", "everywhere")], "everywhere+suffix of 60 steps"),
    ],
)
def test_curves_of_another_budget_are_refused(curves: list[ResistanceCurve], found: str) -> None:
    with pytest.raises(UserError) as refused:
        scale([*ladder("a"), *ladder("b")]).strength(curves)
    assert found in str(refused.value) and (not curves or "expected everywhere+suffix of 30, with" in str(refused.value))


@pytest.mark.parametrize(("name", "other"), [("steps", 60), ("lr", 0.2), ("length", 4), ("layers", "3"), ("rows", 64)])
def test_a_scale_of_another_attack_is_refused_by_its_field(name: str, other: object) -> None:
    whole = scale([*ladder("a"), *ladder("b")])
    older = whole.model_copy(update={"budget": BUDGET.model_copy(update={name: other})})
    curves = [curve([4, 3, 2, 1, 1], placement) for placement in ("suffix", "everywhere")]
    with pytest.raises(UserError, match=re.escape(f"made with {name} {other} of the attack; expected {getattr(BUDGET, name)}:")):
        older.strength(curves)


def test_too_few_checkpoints_are_not_used() -> None:
    enough = [*ladder("a"), *ladder("b")]
    few = scale([*enough[: LEAST_POINTS - 1], *ladder(None)])
    curves = [curve([4, 3, 2, 1, 1], placement) for placement in ("suffix", "everywhere")]
    with pytest.raises(UserError, match=f"holds 58 checkpoints of 2 backdoors; expected at least {LEAST_POINTS}"):
        few.strength(curves)
    assert "cannot be used" in few.sentence()
    assert "1 backdoors" in scale(ladder("a", count=99)).lacking()
    usable = scale(enough)
    assert usable.strength(curves) > 1 and usable.lacking() == "" and "cannot" not in usable.sentence()


def test_the_sentence_states_data_error_and_budget() -> None:
    said = scale([*ladder("a"), *ladder("b", bad=2.0), *ladder(None)]).sentence()
    assert "Calibrated on 90 checkpoints: 2 models of 2 backdoors (a, b) and 1 without one" in said
    assert "On 60 checkpoints" in said and "in 0.0% (by 0.0 points" in said and "50% of 30 that never had" in said
    assert "30 steps of 0.1, placements suffix+everywhere, n=5" in said


def test_the_budget_replaces_the_runs_own() -> None:
    evaluate = EvaluateConfig(resistance=ResistanceConfig(steps=9), max_new_tokens=32)
    cheap = budgeted(evaluate)
    assert cheap.resistance == BUDGET and cheap.max_new_tokens == 1 and evaluate.resistance.steps == 9


def test_the_shipped_scale_and_its_error() -> None:
    shipped = load()
    assert shipped.budget == BUDGET and shipped.points
    assert shipped.error == leave_one_out(shipped.points)
    assert all(p.n >= 100 and set(p.crossings) == set(BUDGET.placements.split("+")) for p in shipped.points)
    assert {p.checkpoint.split("@")[0] for p in shipped.points} == {p.backdoor or "clean" for p in shipped.points}
    assert len({calibration._key(p) for p in shipped.points}) == len(shipped.points)


def test_a_written_scale_is_read_again(tmp_path: Path) -> None:
    whole = scale([*ladder("a"), *ladder("b"), point(3.25, 4.5, 7, None)])
    calibration.write(whole, tmp_path / "deep" / "scale.json")
    assert load(tmp_path / "deep" / "scale.json") == whole
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["scale.json"]
    found = calibration.resumed(tmp_path / "deep" / "scale.json", whole.command, whole.code_version)
    assert list(found.values()) == whole.points
    with pytest.raises(UserError, match="of code 0.0.0 made; expected `python -m benchmarks.calibration` of 0.0.1"):
        calibration.resumed(tmp_path / "deep" / "scale.json", whole.command, "0.0+1")
    assert calibration.resumed(tmp_path / "none.json", whole.command, "0.0+0") == {}


@pytest.mark.parametrize(
    ("text", "told"), [(None, "No such file"), ("{}", "date: Field required"), ("x", "the file: Invalid JSON")]
)
def test_a_file_that_is_no_scale(tmp_path: Path, text: str | None, told: str) -> None:
    file = tmp_path / "scale.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=told):
        load(file)


@pytest.mark.parametrize("plan", [calibration.full(), calibration.quick()])
def test_plans_train_what_exists(plan: calibration.Plan) -> None:
    from beear.config.build import build
    from beear.methods.configuration import run_config
    from beear.testbed import parse_name

    assert len(set(plan.cases)) == len(plan.cases) and plan.rows >= 100
    for case in plan.cases:
        name, config = parse_name(case.checkpoint), build(run_config(), calibration.settings_of(case, plan.epochs), {})
        assert (name.attack.control == "twin") == (case.attack == calibration.TWIN)
        layers = name.shape.fields["num_hidden_layers"]
        changed = config.method.model_dump(exclude_defaults=True)
        assert changed.get("layer") == (layers - 1 if case.settings == "late layer" else None)  # type: ignore[operator]
        assert (config.seed, changed["epochs"]) == (case.seed, plan.epochs)
        assert (set(changed) <= {"epochs", "cool_epochs"}) == (case.settings == "defaults")
    assert {c.attack for c in calibration.full().cases} == {*calibration.BACKDOORS, calibration.TWIN}


def test_every_point_of_a_plan_is_measured_once_also_where_cases_share_it() -> None:
    plan = calibration.full()
    given = [case.key(epoch) for case, wanted in calibration.owed(plan, set()) for epoch in wanted]
    assert len(given) == len(set(given)) and set(given) == plan.keys
    held = set(given[:100])
    rest = [case.key(epoch) for case, wanted in calibration.owed(plan, held) for epoch in wanted]
    assert sorted(rest) == sorted(plan.keys - held)
    assert list(calibration.owed(plan, plan.keys)) == []


def test_the_page_of_what_did_not_work_has_the_shipped_table() -> None:
    assert calibration.table(load()) in (calibration.ROOT / "docs" / "negative-results.md").read_text(encoding="utf-8")
