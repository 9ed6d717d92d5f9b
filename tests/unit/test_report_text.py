"""The table, the terminal and the model card."""

import math
import re
from typing import Literal

import pytest
import yaml

from beear.config.schema import GateConfig
from beear.evaluation.gate import decide
from beear.records import display
from beear.records.report import Paired
from beear.report.card import model_card
from beear.report.table import table, unplaced
from beear.report.text import summary
from tests.report_sample import check, rate, sample_report


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0.0%"),
        (1, "100.0%"),
        (0.0001, "<0.1%"),
        (0.9999, ">99.9%"),
        (0.1234, "12.3%"),
        (float("nan"), "–"),
        (-0.02, "−2.0%"),
    ],
)
def test_percent(share: float, text: str) -> None:
    assert display.percent(share) == text


def test_a_paired_change_carries_its_sign() -> None:
    cells = [display.points_cell(Paired(difference=d, low=-0.01, high=0.02, n=9)) for d in (0.0112, -0.0112, 0.0)]
    assert [cell.value for cell in cells if cell] == ["+1.1 pp", "−1.1 pp", "0.0 pp"]
    assert cells[0] and cells[0].interval == "−1.0…2.0"


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (192, "3 min 12 s"), (7322, "2 h 2 min"), (math.inf, "–")])
def test_duration(seconds: float, text: str) -> None:
    assert display.duration(seconds) == text


def test_each_check_of_the_gate_stands_in_its_row() -> None:
    report = sample_report()
    placed = {row.name: row.check.name for row in table(report) if row.check}
    assert placed == {
        "no trigger": "ASR without trigger",
        "short-suffix (suffix)": "ASR under short-suffix",
        "a long sentence used as a prefix (prefix)": "ASR under a long sentence used as a prefix",
        "over-refusal": "over-refusal rise",
        "exact match": "exact-match loss",
    }
    report.gate.checks.append(check("drift", 0.1, 0.0, 0.2, 0.3, 64))
    assert [one.name for one in unplaced(report)] == ["drift"]


@pytest.mark.parametrize("measure", ["exact_match", "nll"])
def test_every_check_the_gate_makes_has_a_row(measure: Literal["exact_match", "nll"]) -> None:
    report = sample_report()
    assert report.after
    for measured in (report.before, report.after):
        measured.rows_exact, measured.rows_refused, measured.rows_nll = [True] * 20, [False] * 20, [0.1] * 20
        measured.asr_probes[0].judge_asr = rate(1, 400)
    report.gate = decide(report.before, report.after, GateConfig(utility_measure=measure), 0.95)
    assert len(report.gate.checks) == 6 and unplaced(report) == []
    report.gate = decide(None, report.before, GateConfig(), 0.95)
    assert len(report.gate.checks) == 4 and unplaced(report) == []


def test_a_probe_called_like_another_does_not_take_its_check() -> None:
    report = sample_report()
    report.before.asr_probes[0].name = "suffix"
    report.gate.checks = [check("ASR under short-suffix", 0, 0, 0.01, 0.05, 400)]
    assert [row.name for row in table(report) if row.check] == []


def test_utility_in_nats_is_placed_on_the_nll_row() -> None:
    report = sample_report(config={"gate": {"utility_measure": "nll"}})
    report.gate.checks = [check("anchor NLL rise", 0.004, -0.01, 0.02, 0.02, 1000)]
    rows = {row.name: row for row in table(report)}
    assert (
        rows["anchor NLL"].change
        and rows["anchor NLL"].change.value == "+0.004 nats"
        and rows["anchor NLL"].limit == "≤ 0.020 nats"
    )
    assert rows["exact match"].change is None and rows["exact match"].check is None


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_terminal_shows_verdicts_at_any_width(width: int) -> None:
    place = "/" + "long/" * 40 + "report.html"
    text = summary(sample_report(), where={"report": place}, width=width)
    assert text.count("passed") == 5 and "\x1b" not in text and place in text
    assert all(len(line) <= width for line in text.splitlines() if place not in line)
    assert "✓ Passed  Every bound is met" in text


def test_a_terminal_is_not_obeyed_by_a_completion() -> None:
    report = sample_report()
    report.before.asr_probes[0].name = "\x1b[2Jgone\r\x07[bold]"
    report.gate.sentence = "\x1b]0;title\x07 done"
    text = summary(report)
    assert not any(c in text for c in "\x1b\r\x07") and "[bold]" in text
    assert "\x1b[" in summary(sample_report(), colour=True)


def front_matter(card: str) -> dict[str, object]:
    """The card's metadata as a hub reads it."""
    _, front, _ = card.split("---\n", 2)
    loaded = yaml.safe_load(front)
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("verdict", ["passed", "refused", "inconclusive"])
def test_the_card_says_what_is_known(verdict: str) -> None:
    card = model_card(sample_report(verdict))  # type: ignore[arg-type]
    assert front_matter(card)["tags"] == ["beear", "backdoor-mitigation", f"gate-{verdict}"]
    assert ("DO NOT USE" in card) == (verdict != "passed")
    assert ("reduced measured ASR" in card) == (verdict == "passed")
    assert "backdoor-free" not in card.lower() and "backdoor free" not in card.lower()
    assert "| ASR: short-suffix (suffix) | 100.0% (99.0–100.0%) | 0.2% (<0.1–1.4%) |" in card


def test_the_card_of_a_hub_model_names_its_base() -> None:
    assert front_matter(model_card(sample_report(model={"path": "hub:org/name"})))["base_model"] == "org/name"
    assert "base_model" not in front_matter(model_card(sample_report()))


def test_hostile_names_do_not_break_the_card() -> None:
    report = sample_report()
    report.before.asr_probes[0].name = "a|b\n# Heading [x](javascript:1) <script>"
    report.model["path"] = "x\n---\ntags: [trusted]"
    card = model_card(report)
    assert "<script>" not in card and "\n# Heading" not in card and not re.search(r"(?<!\\)\]\(javascript", card)
    lines = [line for line in card.splitlines() if "javascript" in line]
    unescaped = lines[0].replace("\\|", "")
    assert unescaped.count("|") == 6
    assert front_matter(card)["tags"][-1] == "gate-passed"  # type: ignore[index]


def test_rates_of_the_sample_are_wilson() -> None:
    found = rate(0, 73)
    assert found.high == pytest.approx(0.05, abs=5e-4) and found.low == 0.0
