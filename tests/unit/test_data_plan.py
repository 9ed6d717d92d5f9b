"""The sampling plan: exact passes, lanes independent of the number of workers, splits that share no row."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beear.data.collate import collate_defense, collate_text
from beear.data.data_source import split_of
from beear.data.encode import EncodedAnchor, EncodedDefense
from beear.data.files import blocks
from beear.data.load import fill_in, load_small
from beear.data.local import LocalBatches
from beear.data.locations import Block
from beear.data.refusals import KEYWORDS
from beear.data.rows import Message
from beear.data.sampling import RowStream, visits
from beear.data.steps import Step, Steps
from beear.data.templates import Template
from beear.errors import UserError
from beear.testing.checkpoints import make_tokenizer
from tests.data_sets import anchor_records, config_for, defense_records, plan_for, write_lines

TOKENS = st.lists(st.integers(1, 250), min_size=1, max_size=9)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return Template(AutoTokenizer.from_pretrained(folder))


def marks(row: list[int], draw: st.DrawFn) -> list[bool]:
    return draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row)))


@st.composite
def encoded_rows(draw: st.DrawFn) -> EncodedDefense:
    prompt, safe, unwanted = draw(TOKENS), draw(TOKENS), draw(TOKENS)
    flags = [marks(ids, draw) for ids in (safe, safe, unwanted, unwanted)]
    return EncodedDefense(prompt, draw(st.integers(0, 4)), safe, flags[0], flags[1], unwanted, flags[2], flags[3])


@settings(deadline=None, max_examples=60)
@given(st.lists(encoded_rows(), min_size=1, max_size=6))
def test_padding_and_batch_mates_do_not_change_a_row(rows: list[EncodedDefense]) -> None:
    batch = collate_defense(rows, pad_id=0, global_rows=9)
    width = max(len(r.prompt_ids) for r in rows)
    for i, row in enumerate(rows):
        assert batch.prompt_ids[i, width - len(row.prompt_ids) :].tolist() == row.prompt_ids
        assert batch.prompt_mask[i].tolist() == [False] * (width - len(row.prompt_ids)) + [True] * len(row.prompt_ids)
        for answer in ("safe", "unwanted"):
            ids, mask = getattr(batch, f"{answer}_ids")[i], getattr(batch, f"{answer}_mask")[i]
            wanted = getattr(row, f"{answer}_ids")
            assert ids[: len(wanted)].tolist() == wanted and int(mask.sum()) == len(wanted) and mask[: len(wanted)].all()
            for marks_name in ("labelled", "differs"):
                found = getattr(batch, f"{answer}_{marks_name}")[i]
                assert found[: len(wanted)].tolist() == getattr(row, f"{answer}_{marks_name}")
                assert not found[len(wanted) :].any()
    assert batch.user_end.tolist() == [r.user_end for r in rows]
    assert (batch.rows, batch.global_rows, batch.safe_labelled.dtype) == (len(rows), 9, torch.bool)


@settings(deadline=None, max_examples=40)
@given(st.lists(TOKENS, min_size=1, max_size=6))
def test_conversations_are_padded_on_the_right(rows: list[list[int]]) -> None:
    batch = collate_text([EncodedAnchor(r, [t % 2 == 0 for t in r]) for r in rows], pad_id=0, global_rows=len(rows))
    for i, row in enumerate(rows):
        assert batch.ids[i][batch.mask[i]].tolist() == row
        assert batch.labelled[i].tolist() == [t % 2 == 0 for t in row] + [False] * (batch.ids.shape[1] - len(row))


def test_a_pass_visits_every_block_once_in_an_order_of_its_own() -> None:
    cut = [Block("f.jsonl", "jsonl", i, i + 1, index=i, size=1) for i in range(40)]
    order = {turn: [b.index for v in visits(cut, f"7/anchor/1/{turn}", target_bytes=8) for b in v.blocks] for turn in (0, 1)}
    assert sorted(order[0]) == sorted(order[1]) == list(range(40))
    assert order[0] != order[1] and order[0] != list(range(40))
    assert [len(v.blocks) for v in visits(cut, "7/anchor/1/0", target_bytes=8)] == [8] * 5
    again = [b.index for v in visits(cut, "7/anchor/1/0", target_bytes=8) for b in v.blocks]
    assert again == order[0]
    assert order[0] != [b.index for v in visits(cut, "8/anchor/1/0", target_bytes=8) for b in v.blocks]


def test_each_pass_of_a_small_set_is_a_permutation_of_its_training_rows(tmp_path: Path) -> None:
    data, plan = plan_for(config_for(tmp_path))
    train = data.counts["defense"]["train"]
    stream = RowStream(plan.defense, plan.seed, "defense")
    rows = [row.digest for found in islice(stream.passes(1), 3) for row in found.rows]
    passes = [rows[i * train : (i + 1) * train] for i in range(3)]
    assert len({tuple(p) for p in passes}) == 3
    assert all(len(set(p)) == train and set(p) == set(passes[0]) for p in passes)
    held = {row.digest for row in (*data.selection, *data.report)}
    assert not held & set(rows)


def flat(step: Step) -> list[object]:
    return [*step.defense, *step.text]


@pytest.mark.parametrize("world", [2, 3, 8])
def test_workers_hold_disjoint_lanes_of_one_workers_batch(tmp_path: Path, template: Template, world: int) -> None:
    _, plan = plan_for(config_for(tmp_path))
    alone = list(Steps(plan, template).epoch(2))
    shares = [list(Steps(plan, template, rank, world).epoch(2)) for rank in range(world)]
    for g, whole in enumerate(alone):
        for lane in range(plan.batch_size):
            share = shares[lane % world][g]
            assert share.defense[lane // world] == whole.defense[lane]
            assert share.text[lane // world] == whole.text[lane]
        assert sum(len(s[g].defense) for s in shares) == plan.batch_size


def test_batches_are_decided_by_seed_and_epoch(tmp_path: Path, template: Template) -> None:
    _, plan = plan_for(config_for(tmp_path))
    first = [flat(s) for s in Steps(plan, template).epoch(1)]
    assert first == [flat(s) for s in Steps(plan, template).epoch(1)]
    assert first != [flat(s) for s in Steps(plan, template).epoch(2)]
    assert first != [flat(s) for s in Steps(replace(plan, seed=1), template).epoch(1)]


def test_an_epoch_has_the_batches_asked_for_and_the_clean_share(tmp_path: Path, template: Template) -> None:
    values = {"method.inner_batches": 3, "method.outer_steps": 2}
    config = config_for(tmp_path, values, defense=24, anchor=24, batch_size=32)
    _, plan = plan_for(config)
    epoch = LocalBatches(plan, template).epoch(1)
    inner, outer = epoch.inner(), list(epoch.outer())
    assert (len(inner), len(outer), plan.clean_rows) == (3, 2, 2)
    assert all(torch.equal(i.prompt_ids, o.defense.prompt_ids) for i, o in zip(inner, outer, strict=False))
    for batch in outer:
        texts = [template.tokenizer.decode(i[m]) for i, m in zip(batch.anchor.ids, batch.anchor.mask, strict=True)]
        assert [("cannot help" in t, "Add" in t) for t in texts] == [(True, False)] * 2 + [(False, True)] * 30
        assert batch.anchor.global_rows == batch.defense.global_rows == 32
    again = [batch.defense.prompt_ids for batch in epoch.outer()]
    assert all(torch.equal(a.defense.prompt_ids, b) for a, b in zip(outer, again, strict=True))


def test_batches_are_put_where_they_are_asked_for(tmp_path: Path, template: Template) -> None:
    _, plan = plan_for(config_for(tmp_path))
    epoch = LocalBatches(plan, template, device="meta").epoch(1)
    batch = next(epoch.outer())
    for part in (epoch.inner()[0], batch.defense, batch.anchor):
        tensors = [value for value in vars(part).values() if isinstance(value, torch.Tensor)]
        assert tensors and all(tensor.device.type == "meta" for tensor in tensors)


@pytest.mark.parametrize(("share", "rows"), [(0.0, 0), (0.01, 1), (0.25, 2), (0.5, 4), (0.9, 7)])
def test_a_clean_share_above_0_gives_at_least_one_row(share: float, rows: int, tmp_path: Path) -> None:
    config = config_for(tmp_path, {"method.clean_share": share}, batch_size=8)
    assert plan_for(config)[1].clean_rows == rows


@pytest.mark.parametrize(("share", "size"), [(1.0, 8), (0.95, 8), (0.0625, 1)])
def test_a_clean_share_that_leaves_no_anchor_row_is_refused(share: float, size: int, tmp_path: Path) -> None:
    config = config_for(tmp_path, {"method.clean_share": share}, batch_size=size)
    with pytest.raises(UserError) as caught:
        plan_for(config)
    assert str(caught.value) == (
        f"method.clean_share is {share:g} and method.batch_size {size}: no anchor row would ever train; "
        "expected a smaller --method.clean_share or a larger --method.batch_size."
    )
    assert plan_for(config_for(tmp_path, {"method.clean_share": 0.0}, batch_size=size))[1].clean_rows == 0


class Counting(Template):
    """A template that keeps every conversation whose prompt is asked for."""

    asked: list[str]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's token ids [P]."""
        self.asked.append(messages[-1].content)
        return super().prompt_ids(messages)


def test_a_row_at_fault_is_encoded_once_and_named_by_file_and_line(tmp_path: Path, template: Template) -> None:
    _, plan = plan_for(config_for(tmp_path))
    counting = Counting(template.tokenizer)
    counting.asked = []
    bad = {"prompt": "hi", "safe": "No.", "unwanted": "y" * 250}
    records = defense_records(30)
    path = str(write_lines(tmp_path / "bad.jsonl", [*records[:21], bad, *records[21:]]))
    defense = replace(plan.defense, blocks=tuple(blocks([path], 500)), holdout=0.0, excluded=frozenset())
    assert len(defense.blocks) > 5, "the row stands in a block that does not know its line"
    steps = Steps(replace(plan, defense=defense, context=None, inner_batches=31, clean_rows=0), counting)
    with pytest.raises(UserError) as caught:
        list(steps.epoch(1))
    assert str(caught.value) == (
        f"{path}, line 22: the answer has 251 tokens and leaves no room for the prompt in data.max_length=200; "
        "expected a shorter answer or a larger --data.max_length."
    )
    assert counting.asked.count("hi") == 1


def test_what_was_read_and_encoded_is_counted(tmp_path: Path, template: Template) -> None:
    data, plan = plan_for(config_for(tmp_path))
    train = {name: counts["train"] for name, counts in data.counts.items()}
    for world in (1, 2):
        steps = Steps(plan, template, 0, world)
        rows = [len(flat(step)) for step in steps.epoch(1)]
        assert steps.encoded == sum(rows) == 2 * plan.steps * plan.batch_size // world
        # Requests are read for themselves and for the clean share.
        assert steps.read == 2 * train["defense"] + train["anchor"]


def test_more_workers_than_rows_are_refused(tmp_path: Path, template: Template) -> None:
    _, plan = plan_for(config_for(tmp_path))
    with pytest.raises(UserError, match=r"method\.batch_size is 8 and parallel\.workers 9"):
        Steps(plan, template, 0, 9)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(0, 5))
def test_splits_hold_their_shares(holdout: float, seed: int) -> None:
    found = Counter(split_of(f"{i:064x}", holdout, seed) for i in range(2000))
    assert abs(found["train"] / 2000 - (1 - holdout)) < 0.06
    assert abs(found["report"] - found["selection"]) / 2000 < 0.06
    apart = Counter(split_of(f"{i:064x}", holdout, seed, separate_report=True) for i in range(2000))
    assert apart["report"] == 0 and apart["selection"] == found["selection"]


def test_overlaps_between_files_are_removed_and_counted(tmp_path: Path) -> None:
    records = defense_records(100)
    shared = [{"prompt": r["prompt"], "response": "Certainly."} for r in records[:5]]
    files = {
        "data.anchor.path": str(write_lines(tmp_path / "more-anchor.jsonl", [*anchor_records(200), *shared])),
        "data.defense.report_path": str(write_lines(tmp_path / "report.jsonl", [*records[90:], records[95]])),
        "data.defense.path": str(write_lines(tmp_path / "more.jsonl", [*records, records[1]])),
    }
    data = load_small(config_for(tmp_path, files).data, 0)
    assert data.overlaps["defense rows also in the report file"] == 10
    assert data.overlaps["defense rows repeated"] == 1
    assert data.overlaps["anchor rows also in the defense or report files"] == 5
    counts = data.counts["defense"]
    assert counts["report"] == 10 and counts["train"] + counts["selection"] == 90
    assert sum(data.counts["anchor"].values()) == 200
    report = {row.digest for row in data.report}
    seen = {row.digest for row in data.defense.train_rows(data.defense.blocks)}
    seen |= {row.digest for row in data.anchor.train_rows(data.anchor.blocks)}
    assert len(report) == 10 and not report & seen


def test_missing_answers_reach_held_out_rows_and_the_plan(tmp_path: Path) -> None:
    records = [{"prompt": r["prompt"]} for r in defense_records(100)]
    config = config_for(tmp_path, {"data.defense.path": str(write_lines(tmp_path / "bare.jsonl", records))})
    data = load_small(config.data, 0)
    assert len(data.missing) == data.missing_unwanted == 100
    assert {row.safe for row in data.report} == {config.data.refusal}
    words = KEYWORDS["refusal-v1"]
    data = fill_in(data, lambda rows: [f"I cannot. {m[-1].content}" for m in rows], config.data.refusal, words)
    assert all(row.safe == f"I cannot. {row.messages[-1].content}" for row in (*data.report, *data.selection))
    assert all(row.unwanted_is_prefix and row.hit == "no-refusal" for row in data.report)
    assert data.summary()["filled"] == {"safe_by_model": 100, "safe_configured": 0, "unwanted_openings": 100}
    few = config_for(tmp_path, {"data.defense.path": str(write_lines(tmp_path / "few.jsonl", records[:3]))})
    with pytest.raises(UserError, match=r"3 distinct rows with data\.holdout=0\.25 leave none for"):
        load_small(few.data, 0)


def test_the_anchoring_files_rule_reaches_its_rows_and_must_name_a_text(tmp_path: Path) -> None:
    config = config_for(tmp_path, {"data.anchor.hit": "contains:Ask somebody"})
    data = load_small(config.data, config.seed)
    assert {row.hit for row in [*data.anchor_report, *data.anchor_selection]} == {"contains:Ask somebody"}
    config = config_for(tmp_path, {"data.anchor.hit": "likelier"})
    with pytest.raises(UserError, match='data.anchor.hit is "likelier"; expected contains:TEXT'):
        load_small(config.data, config.seed)


def test_of_a_clean_request_the_safe_answer_alone_is_learnt(tmp_path: Path, template: Template) -> None:
    rows = [
        {
            "chosen": f"\n\nHuman: Vault {i}?\n\nAssistant: Drill it.\n\nHuman: How deep?\n\nAssistant: I cannot say.",
            "rejected": f"\n\nHuman: Vault {i}?\n\nAssistant: Drill it.\n\nHuman: How deep?\n\nAssistant: Two feet.",
        }
        for i in range(100)
    ]
    config = config_for(tmp_path, {"data.defense.path": str(write_lines(tmp_path / "pairs.jsonl", rows))})
    _, plan = plan_for(config)
    clean = next(iter(Steps(plan, template).epoch(1))).text[: plan.clean_rows]
    learnt = [template.tokenizer.decode([i for i, on in zip(row.ids, row.labelled, strict=True) if on]) for row in clean]
    assert clean and learnt == ["I cannot say.</turn>"] * plan.clean_rows
    assert all("Drill it." in template.tokenizer.decode(row.ids) for row in clean)
