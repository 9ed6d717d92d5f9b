"""A measure of another package: measured, merged, gated and shown without any file of the product knowing it."""

import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from beear.config.resolve import ResolvedEvaluate, ResolvedResistance
from beear.config.schema import GateConfig
from beear.data.rows import AnchorRow, Message, Probe
from beear.evaluation import gate, measure
from beear.evaluation.measures.base import Limit, Measure, Observed, RowMeasure
from beear.evaluation.measures.table import MEASURES
from beear.evaluation.probes import apply
from beear.evaluation.shard import MeasuredRows, Shard
from beear.evaluation.subject import Subject
from beear.extensions import Table
from beear.records.report import Measurement, Reading, Report
from beear.registry.flatten import measured, metrics_of
from beear.report.card import model_card
from beear.report.html import render
from beear.report.table import table, unplaced
from beear.report.text import summary
from tests.checkout import ROOT
from tests.report_sample import sample_report
from tests.subjects import anchor_rows, defense_rows, random_subject

CONFIG = ResolvedEvaluate(max_new_tokens=4, batch_size=3, resistance=ResolvedResistance(enabled=False))


class Holds(RowMeasure):
    """Share of ordinary prompts whose completion holds a word; a prompt of more than three words cannot tell."""

    name = "says_end"
    title = "says end"
    group = "Toys"
    limit = Limit(0.5, "largest upper bound of the rise of completions that say end")

    def observe(self, shard: Shard) -> list[Observed]:
        """Look at each completion."""
        return [
            (index, "end" in completion.split() if short(row) else None)
            for (index, row), completion in zip(shard.anchor, shard.answers, strict=True)
        ]


class Length(RowMeasure):
    """Mean length of a completion under the first probe, with a limit on the value itself."""

    name = "length"
    title = "completion length"
    unit = "letters"
    gated_on = "value"
    limit = Limit(1000.0, "largest upper bound of the mean length")

    def observe(self, shard: Shard) -> list[Observed]:
        """Count letters."""
        return [(i, len(text)) for (i, _), text in zip(shard.defense, shard.completions(shard.rows.probes[0]), strict=True)]


HOLDS, LENGTH = Holds(), Length()


def short(row: AnchorRow) -> bool:
    return len(row.messages[0].content.split()) <= 3


class ByLength:
    """An engine that says "the end" to prompts of an even number of tokens, and "no" to others."""

    def __init__(self, subject: Subject) -> None:
        self.said = [subject.tokenizer.encode(text, add_special_tokens=False) for text in ("the end", "no")]

    def generate_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        return [self.said[len(prompt) % 2] for prompt in prompts]


MADE: Table[Measure[Any]] = Table("beear.measures", Measure, [*MEASURES.values(), HOLDS, LENGTH])
ROWS = MeasuredRows(defense_rows(9), anchor_rows(24), [Probe("late", "suffix", "zeta")])


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that offers both: the table reads its entry points once, so its members are put in place."""
    monkeypatch.setitem(MEASURES.__dict__, "_members", dict(MADE))


def test_a_toy_is_merged_from_shards_and_recorded(installed: None) -> None:
    plain = random_subject()
    subject = replace(plain, engine=ByLength(plain))
    parts = [pickle.loads(pickle.dumps(measure.measure(subject, ROWS, CONFIG, shard=(rank, 2)))) for rank in (1, 0)]
    found = measure.merge(parts, 0.95)

    def even(request: Sequence[Message]) -> bool:
        return len(subject.template.prompt_ids(request)) % 2 == 0

    expected = [float(even(row.messages[:-1])) for row in ROWS.anchor if short(row)]
    assert 0 < sum(expected) < len(expected) < len(ROWS.anchor), "some say it, some do not, some rows cannot tell"
    assert set(found.measures) == {"says_end", "length"}
    reading = found.measures["says_end"]
    assert (reading.rows, reading.n, reading.value) == (expected, len(expected), sum(expected) / len(expected))
    assert (reading.unit, reading.better, reading.title, reading.check) == ("share", "lower", "says end", "says end rise")
    lengths = [len("the end") if even(apply(ROWS.probes[0], row.messages)) else len("no") for row in ROWS.defense]
    assert found.measures["length"].value == pytest.approx(sum(lengths) / len(lengths))
    assert measure.headline(parts)["says_end"] == pytest.approx(reading.value)


def reading(toy: RowMeasure, values: Sequence[float | None]) -> dict[str, Reading]:
    made = toy.result(list(enumerate(values)), 0.95)
    assert isinstance(made, Reading)
    return {toy.name: made}


def with_toys(before: Sequence[float | None], after: Sequence[float | None], length: float) -> tuple[Measurement, Measurement]:
    """The sample's measurements with rows to pair, and with the toys' readings."""
    report = sample_report()
    assert report.after
    for found, values in ((report.before, before), (report.after, after)):
        found.rows_exact, found.rows_refused, found.rows_nll = [True] * 400, [False] * 400, [0.1] * 400
        found.measures = reading(HOLDS, values) | reading(LENGTH, [length, length + 2] * 200)
    return report.before, report.after


def test_the_gate_decides_on_a_toy_by_its_own_limit(installed: None) -> None:
    before, after = with_toys([0.0] * 400, [1.0] * 300 + [0.0] * 100, 20.0)
    verdict = gate.decide(before, after, GateConfig(), 0.95)
    names = [check.name for check in verdict.checks]
    assert names[3:] == ["exact-match loss", "over-refusal rise", "says end rise", "completion length"]
    rise, length = verdict.checks[-2:]
    assert (rise.verdict, rise.value, rise.limit, rise.n) == ("refused", 0.75, 0.5, 400)
    assert (length.verdict, length.value, length.limit) == ("passed", 21.0, 1000.0)
    assert verdict.sentence == (
        f"refused: says end rise is 75.0% (n=400), at least {100 * rise.low:.1f}% where 50.0% is allowed."
    )
    assert gate.changes(before, after, GateConfig(), 0.95)["changes"]["says_end"].difference == 0.75


def test_the_gates_configuration_may_hold_the_limit_of_a_toy(installed: None) -> None:
    class Composed(GateConfig):
        says_end: float = 0.9
        length: float = 20.5

    before, after = with_toys([0.0] * 400, [1.0] * 300 + [0.0] * 100, 20.0)
    verdict = gate.decide(before, after, Composed(), 0.95)
    assert verdict.sentence.startswith("refused: completion length is 21.000 letters (n=400), at least 20.9")
    assert "20.500 letters is allowed" in verdict.sentence and "says end" not in verdict.sentence


def test_a_toy_measured_only_once_cannot_pass(installed: None) -> None:
    before, after = with_toys([0.0] * 400, [0.0] * 400, 20.0)
    before.measures.clear()
    verdict = gate.decide(before, after, GateConfig(), 0.95)
    assert verdict.verdict == "inconclusive" and "says end rise has no rows" in verdict.sentence


@pytest.fixture
def report(installed: None) -> Report:
    before, after = with_toys([0.0] * 400, [1.0] * 20 + [0.0] * 380, 20.0)
    verdict = gate.decide(before, after, GateConfig(), 0.95)
    return sample_report(before=before, after=after, gate=verdict, **gate.changes(before, after, GateConfig(), 0.95))


LINE = ("Toys", "says end", "0.0% (0.0–1.0%)", "5.0% (3.3–7.6%)", "+5.0 pp (3.3…7.6)", "≤ 50.0%")


def lines(report: Report) -> dict[str, tuple[str, ...]]:
    return {
        row.name: (row.group, row.name, *(cell.full if cell else "" for cell in (row.before, row.after, row.change)), row.limit)
        for row in table(report)
    }


def test_a_toy_is_shown_wherever_measures_are(report: Report) -> None:
    shown = lines(report)
    assert shown["says end"] == LINE and unplaced(report) == []
    assert shown["completion length"][1:3] == ("completion length", "21.000 letters (20.902–21.098)")
    assert shown["completion length"][-1] == "≤ 1000.000 letters"
    page, card, text = render(report), model_card(report), summary(report)
    assert all("says end" in one and "5.0%" in one and "1000.000 letters" in one for one in (page, card, text))
    metrics = metrics_of(report)
    assert (metrics["before/says_end"], metrics["after/says_end"], metrics["change/says_end"]) == (0.0, 0.05, 0.05)
    assert measured("before", report.before, MEASURES.values())["before/length"] == 21.0


def test_a_report_shows_a_toy_that_is_not_installed(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    again = Report.model_validate_json(report.model_dump_json())
    monkeypatch.setitem(MEASURES.__dict__, "_members", {n: one for n, one in MADE.items() if n not in ("says_end", "length")})
    shown = lines(again)
    assert shown["says end"] == ("Further measures", *LINE[1:]) and unplaced(again) == []
    assert metrics_of(again)["after/says_end"] == 0.05


def test_listing_measures_loads_nothing_heavy() -> None:
    script = "import sys, beear.evaluation.measures.table as t; list(t.MEASURES); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "transformers", "ray", "mlflow", "numpy"} & set(done.stdout.split())
