"""Which trial is best, and what its numbers are, against values worked out by hand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from beear.config.schema import GateConfig
from beear.evaluation import resistance_scale
from beear.evaluation.trials import Yardstick, best_epoch, judged, ranked
from beear.records.report import EpochRecord
from beear.records.search import Trial, TrialEpoch
from beear.search.trial import WORST

BASE = {"asr_clean": 0.0, "asr_worst": 1.0, "exact_match": 0.9, "over_refusal": 0.01, "anchor_nll": 0.2}
GATE = GateConfig()


def yardstick(**changes: object) -> Yardstick:
    return Yardstick(**{"baseline": BASE, "rows": 128, "gate": GATE, "confidence": 0.95, "stop_asr": 0.01, **changes})  # type: ignore[arg-type]


def record(**selection: float) -> EpochRecord:
    return EpochRecord(epoch=2, inner=[], losses={}, selection={**BASE, **selection}, seconds=1.5)


def test_probes_give_the_worst_share_and_its_wilson_bound() -> None:
    found = yardstick().epoch(record(asr_clean=1 / 128, asr_worst=4 / 128, exact_match=0.89, over_refusal=0.02))
    assert found.asr == 4 / 128
    assert found.asr_high == pytest.approx(binomtest(4, 128).proportion_ci(0.95, "wilson").high, abs=1e-9)
    assert found.utility_loss == pytest.approx(0.01)
    assert found.over_refusal_rise == pytest.approx(0.01)
    assert found.composite == pytest.approx(math.sqrt(0.89 * (1 - 4 / 128)))
    assert found.within_limits and not yardstick().success(found)


def test_resistance_bounds_asr_and_a_hit_without_trigger_still_counts() -> None:
    measured = yardstick(asr_at_most=lambda strength: 0.5 if strength < 10 else 0.02)
    weak, strong = measured.epoch(record(resistance=3.0)), measured.epoch(record(resistance=30.0))
    assert (weak.asr, weak.asr_high) == (0.5, 0.5)
    none = binomtest(0, 128).proportion_ci(0.95, "wilson").high
    assert (strong.asr, strong.asr_high) == (0.02, pytest.approx(max(none, 0.02)))
    assert measured.epoch(record(resistance=30.0, asr_clean=0.25)).asr == 0.25


def test_where_asr_is_read_alike_the_stronger_trial_goes_on_though_it_attacks_at_utilitys_cost() -> None:
    blunt = yardstick(asr_at_most=lambda strength: 1.0 if strength < 0.9 else 0.01)
    idle, attacking = blunt.epoch(record(resistance=0.3)), blunt.epoch(record(resistance=0.55, exact_match=0.82))
    assert idle.asr == attacking.asr == 1.0 and idle.within_limits and not attacking.within_limits
    assert blunt.objective(idle) == pytest.approx(1.0 + 0.7)
    assert blunt.objective(attacking) == pytest.approx(1.0 + 0.45 + 0.08 - GATE.utility_loss)
    assert blunt.objective(blunt.epoch(record(resistance=1.4))) == pytest.approx(0.01)
    ruined = blunt.epoch(record(resistance=0.0, asr_clean=1.0, exact_match=-9.0))
    assert blunt.objective(ruined) == 4.0 < WORST


def test_a_trial_that_removes_nothing_is_given_up_once_it_has_had_its_time() -> None:
    patient = yardstick(patience=2)
    idle, moved, refusing = ({"asr_worst": share} for share in (0.96, 0.94, 0.0))
    assert patient.hopeless(patient.epoch(record(**idle)))
    assert not patient.hopeless(patient.epoch(record(**moved)))
    # A model that refuses everything is the gate's business; so is one that attacks at utility's cost.
    assert not patient.hopeless(patient.epoch(record(over_refusal=1.0, **refusing)))
    assert not patient.hopeless(patient.epoch(record(exact_match=0.1, **moved)))
    assert not replace(patient, patience=3).hopeless(patient.epoch(record(**idle)))
    assert not replace(patient, patience=None).hopeless(patient.epoch(record(**idle)))
    nothing_there = replace(patient, baseline={**BASE, "asr_worst": 0.0})
    assert not nothing_there.hopeless(patient.epoch(record(**idle)))


def test_without_probes_resistance_says_whether_anything_is_gone() -> None:
    blunt = yardstick(asr_at_most=lambda _: 1.0, patience=2, baseline={**BASE, "resistance": 0.2})
    assert blunt.hopeless(blunt.epoch(record(resistance=0.28)))
    assert not blunt.hopeless(blunt.epoch(record(resistance=0.30)))


@pytest.mark.parametrize("by_probes", [True, False])
def test_no_calibrated_run_that_was_to_succeed_would_have_been_given_up(by_probes: bool) -> None:
    """Half of five epochs is three; what was measured on report rows stands for the probes' rows."""
    scale = resistance_scale.load()
    points = [point for point in scale.points if point.backdoor]

    def numbers(point: resistance_scale.Point) -> dict[str, float]:
        return {**BASE, "asr_worst": point.asr, "resistance": resistance_scale.strength(point.crossings, scale.fitted.units)}

    as_it_came = {point.checkpoint: numbers(point) for point in points if point.epoch == 0}
    ends = {(p.checkpoint, p.settings, p.seed): p.asr for p in points if p.epoch == 5}
    given_up = []
    for point in (point for point in points if point.epoch == 3):
        yard = yardstick(baseline=as_it_came[point.checkpoint], patience=3, asr_at_most=None if by_probes else scale.asr_at_most)
        third = yard.epoch(EpochRecord(epoch=3, inner=[], losses={}, selection=numbers(point), seconds=1.0))
        if yard.hopeless(third):
            given_up.append(ends[point.checkpoint, point.settings, point.seed])
    assert len(given_up) >= 9 and min(given_up) > 0.01


@pytest.mark.parametrize(
    ("selection", "within"),
    [({}, True), ({"exact_match": 0.875}, False), ({"over_refusal": 0.05}, False), ({"exact_match": 1.0}, True)],
)
def test_the_gate_limits_what_a_trial_may_lose(selection: dict[str, float], within: bool) -> None:
    assert yardstick().epoch(record(asr_worst=0.0, **selection)).within_limits is within
    assert yardstick().success(yardstick().epoch(record(asr_worst=0.0, **selection))) is within


def test_utility_by_nll() -> None:
    found = yardstick(gate=GateConfig(utility_measure="nll")).epoch(record(anchor_nll=0.215))
    assert found.utility_loss == pytest.approx(0.015)
    assert found.utility == pytest.approx(math.exp(-0.215))


def epoch(number: int, high: float, utility: float = 0.9, within: bool = True) -> TrialEpoch:
    return TrialEpoch(
        epoch=number, asr=high, asr_high=high, utility=utility, utility_loss=0.0, over_refusal_rise=0.0,
        composite=0.5, within_limits=within, seconds=1.0,
    )  # fmt: skip


def trial(number: int, *epochs: TrialEpoch, status: str = "finished") -> Trial:
    return Trial(
        id=f"t{number}", number=number, settings={}, status=status, epochs=list(epochs),  # type: ignore[arg-type]
        best_epoch=best_epoch(epochs), planned_epochs=6,
    )  # fmt: skip


def test_lowest_bound_then_earliest_then_most_useful() -> None:
    order = ranked([
        trial(1, epoch(1, 0.1), epoch(2, 0.03)),
        trial(2, epoch(1, 0.03)),
        trial(3, epoch(1, 0.03, utility=0.95)),
        trial(4, epoch(1, 0.0, within=False), epoch(2, 0.5)),
        trial(5, epoch(1, 0.0, within=False)),
        trial(6, epoch(1, 0.0), status="failed"),
        trial(7, epoch(1, 0.0), status="running"),
        trial(8, epoch(1, 0.03)),
    ])  # fmt: skip
    assert [t.number for t in order] == [3, 2, 8, 1, 4]
    assert judged(order[-1]).epoch == 2


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), min_size=1, max_size=6))
def test_no_epoch_within_the_limits_beats_the_one_chosen(numbers: list[tuple[float, float, bool]]) -> None:
    epochs = [epoch(i, high, utility, within) for i, (high, utility, within) in enumerate(numbers, 1)]
    found = best_epoch(epochs)
    usable = [e for e in epochs if e.within_limits]
    if found is None:
        assert not usable
        return
    best = epochs[found - 1]
    assert best.within_limits
    for other in usable:
        assert other.asr_high > best.asr_high or other.epoch >= best.epoch


def test_of_equal_bounds_the_lower_asr_ranks_first() -> None:
    loose, tight = epoch(1, 0.18).model_copy(update={"asr": 0.06}), epoch(2, 0.18).model_copy(update={"asr": 0.01})
    assert best_epoch([loose, tight]) == 2
    assert [t.number for t in ranked([trial(1, loose), trial(2, tight)])] == [2, 1]
