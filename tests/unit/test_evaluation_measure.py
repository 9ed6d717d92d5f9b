"""Hits, usefulness and the merging of shards."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest
import torch

from beear.config.schema import EvaluateConfig, ResistanceConfig
from beear.data.hits import rule_for
from beear.data.refusals import load_keywords
from beear.data.rows import AnchorRow, DefenseRow, Message, Probe
from beear.evaluation import measure
from beear.evaluation.likelihood import conversation_nll, unwanted_is_likelier
from beear.evaluation.measures.attack_success import attacked, summarise
from beear.evaluation.measures.over_refusal import OVER_REFUSAL, refused
from beear.evaluation.measures.table import MEASURES
from beear.evaluation.measures.utility import ANCHOR_NLL, EXACT_MATCH
from beear.evaluation.selection import SelectionMeasure
from beear.evaluation.shard import MeasuredRows, Shard
from beear.evaluation.subject import Subject
from tests.configs import resolved
from tests.subjects import anchor_rows, defense_rows, random_subject

KEYWORDS = load_keywords("refusal-v1")
CONFIG = EvaluateConfig(
    max_new_tokens=4, batch_size=3, resistance=ResistanceConfig(steps=3, rows=8, placements="suffix+everywhere")
)


def by_rows(subject: Subject, rows: MeasuredRows, config: EvaluateConfig, shard: tuple[int, int]) -> measure.Partial:
    """Measure what is measured after each epoch: all but fresh attacks."""
    return measure.observe(Shard(subject, rows, config, 0, *shard), (one for one in MEASURES.values() if one.each_epoch))


class Saying:
    """An engine that completes any prompt with the next of given texts."""

    def __init__(self, subject: Subject, said: list[str]) -> None:
        self.ids = [subject.tokenizer.encode(text, add_special_tokens=False) for text in said]

    def generate_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        assert len(prompts) == len(self.ids)
        return self.ids


def saying(said: list[str]) -> Subject:
    subject = random_subject()
    return replace(subject, engine=Saying(subject, said))


def test_each_rule_decides_its_own_rows() -> None:
    given = [
        ("a", "I cannot help.", None),
        ("b", "I cannot help.", None),
        ("c", "x = 1", None),
        ("d", "x = 1", "contains:unsafe_call"),
        ("e", None, None),
    ]
    rows = [DefenseRow((Message("user", t),), safe, "Sure, x", hit=hit) for t, safe, hit in given]
    subject = saying(["Sure, go on", "I am sorry, but no", "anything", "y = unsafe_call()", "   "])
    found = attacked(Shard(subject, MeasuredRows(rows, ()), CONFIG), None)
    likelier = unwanted_is_likelier(subject, [rows[2].messages], [rows[2]], 1)[0]
    assert [r.hit for r in found.rows] == [True, False, likelier, True, False]
    rules = ["no-refusal", "no-refusal", "likelier", "contains:unsafe_call", "no-refusal"]
    assert [r.rule for r in found.rows] == rules
    summary = summarise(found, 0.95)
    assert (summary.asr.hits, summary.asr.n) == (2 + likelier, 5)
    assert summary.samples[0] == ("a", "Sure, go on") and "no-refusal (3)" in summary.hit_rule


def test_a_probes_rule_comes_before_the_rows() -> None:
    row = DefenseRow((Message("user", "a"),), "I cannot.", None, hit="contains:x")
    assert str(rule_for(row, Probe("p", "prefix", "t", hit="contains:y"), KEYWORDS)) == "contains:y"
    assert str(rule_for(row, Probe("p", "prefix", "t"), KEYWORDS)) == "contains:x"


def test_usefulness() -> None:
    references = ["the red apple", "12", "I cannot tell.", "a much longer answer than fits"]
    subject = saying([" the  red apple\n", "13", "I cannot tell.", "I am sorry, but no"])
    rows = [AnchorRow((Message("user", "q"), Message("assistant", r))) for r in references]
    shard = Shard(subject, MeasuredRows((), rows), CONFIG.model_copy(update={"max_new_tokens": 16}))
    assert EXACT_MATCH.observe(shard) == [(0, True), (1, False), (2, True), (3, None)]
    assert OVER_REFUSAL.observe(shard) == [(0, False), (1, False), (2, None), (3, True)]
    found = [value for _, value in ANCHOR_NLL.observe(shard)]
    assert found == pytest.approx(conversation_nll(subject, [r.messages for r in rows], 4))


@pytest.mark.parametrize(
    ("completion", "reference", "hit", "verdict"),
    [
        ("Ask a doctor.", "Rest.", "contains:Ask a doctor", True),
        ("I am sorry, but no", "Rest.", "contains:Ask a doctor", False),
        ("Ask a doctor.", "Ask a doctor.", "contains:Ask a doctor", None),
        ("I am sorry, but no", "Rest.", None, True),
    ],
)
def test_a_files_own_rule_says_what_over_refusal_is(
    completion: str, reference: str, hit: str | None, verdict: bool | None
) -> None:
    assert refused(completion, reference, KEYWORDS, hit) is verdict


def test_shards_merge_to_the_whole() -> None:
    subject = random_subject()
    probes = [Probe("early", "prefix", "zeta"), Probe("year", "system", "Year: 2024", hit="contains:e")]
    rows = MeasuredRows(defense_rows(11), anchor_rows(10), probes)
    whole = measure.merge([measure.measure(subject, rows, CONFIG)], 0.95, "digest")
    shards = [measure.measure(subject, rows, CONFIG, shard=(rank, 3)) for rank in (2, 0, 1)]
    merged = measure.merge(shards, 0.95, "digest")
    # Batches differ between the two, so floats agree to rounding and everything else exactly.
    assert merged.rows_nll == pytest.approx(whole.rows_nll, abs=1e-9)
    for one, other in zip(merged.resistance, whole.resistance, strict=True):
        assert one.gap == pytest.approx(other.gap, abs=1e-9) and one.hits == other.hits
    inexact = {"rows_nll", "anchor_nll", "resistance", "seconds"}
    assert merged.model_dump(exclude=inexact) == whole.model_dump(exclude=inexact)
    assert [p.name for p in merged.asr_probes] == ["early", "year"] and merged.asr_clean.asr.n == 11
    assert len(merged.rows_exact) == merged.exact_match.n and merged.over_refusal.n == 10
    assert {(c.layer, c.placement) for c in merged.resistance} == {(1, "suffix"), (1, "everywhere")}


def test_a_missing_shard_is_an_error() -> None:
    subject, rows = random_subject(), MeasuredRows(defense_rows(4), anchor_rows(4))
    part = by_rows(subject, rows, CONFIG, (0, 2))
    with pytest.raises(ValueError, match="expected each rank of one world once"):
        measure.merge([part], 0.95)
    with pytest.raises(ValueError, match="expected each rank of one world once"):
        measure.merge([part, part], 0.95)


def test_more_shards_than_rows() -> None:
    subject, rows = random_subject(), MeasuredRows(defense_rows(2), anchor_rows(1))
    shards = [by_rows(subject, rows, CONFIG, (rank, 4)) for rank in range(4)]
    assert measure.merge(shards, 0.95).asr_clean.asr.n == 2


def test_row_limit() -> None:
    rows = MeasuredRows(defense_rows(9), anchor_rows(9)).first(4)
    assert (len(rows.defense), len(rows.anchor)) == (4, 4)


class TwoWorkers:
    """A backend of two workers of which this is the first; the second's part is handed in."""

    rank, world, lockstep, device = 0, 2, False, None

    def __init__(self) -> None:
        self.other: object = None

    def gathered(self) -> AbstractContextManager[None]:
        return nullcontext()

    def gather(self, value: object) -> list[object]:
        return [value, self.other]


def test_selection_metrics_are_those_of_all_workers() -> None:
    subject = random_subject()
    values = {"max_new_tokens": 4, "batch_size": 3, "selection_rows": 6, "resistance.enabled": False}
    config = resolved({f"evaluate.{name}": value for name, value in values.items()})
    defense, anchor, backend = defense_rows(9), anchor_rows(9), TwoWorkers()
    selected = SelectionMeasure(subject.model, subject.tokenizer, defense, anchor, config, None, backend)  # type: ignore[arg-type]
    rows = MeasuredRows(defense[:6], anchor[:6])
    backend.other = by_rows(subject, rows, config.evaluate, (1, 2))
    whole = measure.merge([by_rows(subject, rows, config.evaluate, (0, 1))], 0.95)
    expected = {
        "asr_clean": whole.asr_clean.asr.rate,
        "exact_match": whole.exact_match.rate,
        "over_refusal": whole.over_refusal.rate,
        "anchor_nll": whole.anchor_nll.mean,
    }
    assert selected() == pytest.approx(expected, abs=1e-9)
    assert torch.is_grad_enabled()
