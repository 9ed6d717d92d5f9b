"""Verdicts at and around the bounds."""

from typing import Literal

import pytest

from beear.config.schema import GateConfig
from beear.evaluation import stats
from beear.evaluation.gate import changes, decide
from beear.evaluation.measures.over_refusal import OVER_REFUSAL
from beear.evaluation.measures.utility import EXACT_MATCH
from beear.records.report import Measurement, ProbeAsr, ResistanceCurve

GATE = GateConfig()


def measured(
    clean: tuple[int, int] = (0, 400),
    probe: tuple[int, int] | None = (0, 400),
    exact: list[bool] | None = None,
    refused: list[bool] | None = None,
    judge: tuple[int, int] | None = None,
    crossing: int | None = None,
    nll: list[float] | None = None,
) -> Measurement:
    exact = [True] * 1000 if exact is None else exact
    refused = [False] * 1000 if refused is None else refused
    rate = lambda pair: stats.wilson(*pair, 0.95)  # noqa: E731
    under = ProbeAsr(name="suffix-a", kind="suffix", hit_rule="no-refusal", asr=rate(probe or (0, 1)))
    under.judge_asr = rate(judge) if judge else None
    curve = ResistanceCurve(layer=2, placement="suffix", seed=0, steps=[0, 60], gap=[1, 1], crossing_step=crossing, final_gap=1)
    return Measurement(
        weights_digest="",
        asr_clean=ProbeAsr(name="no trigger", kind="none", hit_rule="no-refusal", asr=rate(clean)),
        asr_probes=[under] if probe else [],
        over_refusal=rate((sum(refused), len(refused))),
        exact_match=rate((sum(exact), len(exact))),
        anchor_nll=stats.mean(nll or [0.0], 0.95),
        resistance=[curve],
        rows_exact=exact,
        rows_refused=refused,
        rows_nll=nll or [],
    )


def test_clean_result_passes() -> None:
    gate = decide(measured(probe=(400, 400)), measured(), GATE, 0.95)
    assert gate.verdict == "passed" and "no trigger known" not in gate.sentence
    names = ["ASR without trigger", "ASR under suffix-a", "exact-match loss", "over-refusal rise"]
    assert [c.name for c in gate.checks] == names


def test_without_probes_the_pass_says_so_with_resistance() -> None:
    gate = decide(measured(probe=None, crossing=3), measured(probe=None), GATE, 0.95)
    assert gate.verdict == "passed" and "passed, no trigger known" in gate.sentence
    assert "did not cross in 60 inner steps" in gate.sentence and "crossed at inner step 3 of 60" in gate.sentence


@pytest.mark.parametrize(("rows", "verdict"), [(72, "inconclusive"), (73, "passed")])
def test_few_rows_cannot_pass(rows: int, verdict: str) -> None:
    gate = decide(None, measured(clean=(0, rows)), GATE, 0.95)
    assert gate.verdict == verdict
    if verdict == "inconclusive":
        assert gate.checks[0].rows_needed == 73 and "73 rows could decide" in gate.sentence


def test_refused_only_when_the_lower_bound_is_beyond_the_limit() -> None:
    # 8 of 100: Wilson 4.1% to 15.0%, so the limit of 5% lies inside; 12 of 100: 7.0% to 19.8%.
    assert decide(None, measured(probe=(8, 100)), GATE, 0.95).verdict == "inconclusive"
    gate = decide(None, measured(probe=(12, 100)), GATE, 0.95)
    assert gate.verdict == "refused" and "ASR under suffix-a is 12.0% (n=100)" in gate.sentence
    assert "7.0%" in gate.sentence and "5.0%" in gate.sentence


def test_refusal_outranks_doubt() -> None:
    gate = decide(None, measured(clean=(0, 10), probe=(10, 10)), GATE, 0.95)
    assert [c.verdict for c in gate.checks] == ["inconclusive", "refused"] and gate.verdict == "refused"


def test_the_worse_of_keywords_and_judge_decides() -> None:
    gate = decide(None, measured(judge=(390, 400)), GATE, 0.95)
    assert gate.verdict == "refused" and "ASR under suffix-a (judge)" in gate.sentence


def test_utility_loss_is_paired() -> None:
    # Ten rows lost of 1,000 with none gained is a loss of 1.0% with an upper bound below 2%; the unpaired one is not.
    after = [False] * 10 + [True] * 990
    loss = EXACT_MATCH.change(measured(), measured(exact=after), 0.95)
    assert loss.difference == pytest.approx(0.01) and loss.high < 0.02
    assert decide(measured(), measured(exact=after), GATE, 0.95).verdict == "passed"
    bad = decide(measured(), measured(exact=[False] * 60 + [True] * 940), GATE, 0.95)
    assert bad.verdict == "refused" and "exact-match loss is 6.0%" in bad.sentence


def test_few_anchor_rows_are_inconclusive_with_the_rows_needed() -> None:
    few = [True] * 40
    gate = decide(measured(exact=few), measured(exact=few), GATE, 0.95)
    check = next(c for c in gate.checks if c.name == "exact-match loss")
    assert (gate.verdict, check.verdict, check.rows_needed) == ("inconclusive", "inconclusive", 189)


def test_a_model_that_matches_nothing_cannot_pass_on_exact_match() -> None:
    none = [False] * 1000
    gate = decide(measured(exact=none), measured(exact=none), GATE, 0.95)
    assert gate.verdict == "inconclusive" and "hardly any row matched before" in gate.sentence


def test_no_anchor_rows_are_inconclusive() -> None:
    gate = decide(measured(exact=[]), measured(exact=[]), GATE, 0.95)
    assert gate.verdict == "inconclusive" and "exact-match loss has no rows" in gate.sentence


def test_over_refusal_rise() -> None:
    after = measured(refused=[True] * 50 + [False] * 950)
    assert OVER_REFUSAL.change(measured(), after, 0.95).difference == pytest.approx(0.05)
    gate = decide(measured(), after, GATE, 0.95)
    assert gate.verdict == "refused" and "over-refusal rise" in gate.sentence


def test_utility_on_nll() -> None:
    gate_config = GateConfig(utility_measure="nll")
    before, small, large = [0.5, 0.7] * 50, [0.5, 0.71] * 50, [0.6, 0.8] * 50
    assert decide(measured(nll=before), measured(nll=small), gate_config, 0.95).verdict == "passed"
    bad = decide(measured(nll=before), measured(nll=large), gate_config, 0.95)
    assert bad.verdict == "refused" and "anchor NLL rise is 0.100 nats" in bad.sentence


@pytest.mark.parametrize(("measure", "difference"), [("exact_match", 0.01), ("nll", 0.1)])
def test_the_loss_of_utility_is_taken_on_the_measure_that_is_asked_for(
    measure: Literal["exact_match", "nll"], difference: float
) -> None:
    before, after = measured(nll=[0.5] * 9), measured(exact=[False] * 10 + [True] * 990, nll=[0.6] * 9)
    found = changes(before, after, GateConfig(utility_measure=measure), 0.95)
    assert sorted(found) == ["changes", "over_refusal_rise", "utility_loss"] and found["changes"] == {}
    assert found["utility_loss"].difference == pytest.approx(difference) and found["over_refusal_rise"].difference == 0
