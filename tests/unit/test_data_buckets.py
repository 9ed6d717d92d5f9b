"""Batches of like length: what they save, what they keep, and that every worker and epoch has its own right ones."""

import random
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from beear.data.sampling import WINDOW, alike, bucketed, window_of
from beear.data.steps import Step, Steps
from beear.data.templates import Template
from beear.testing.checkpoints import make_tokenizer
from benchmarks import padding
from benchmarks.lengths import AT, CHATS, quantile
from tests.data_sets import config_for, plan_for, write_lines


def test_buckets_hold_rows_of_like_length_and_lose_none() -> None:
    lengths = [(i * 37) % 101 for i in range(100)]
    found = list(bucketed(iter(lengths), lambda n: (n,), rows=8, window=4, key="k"))
    assert Counter(found) == Counter(lengths)
    # Each window of 32 is the sorted window cut in eights; the last four rows are no batch and stay as they came.
    for start in (0, 32, 64):
        ordered = sorted(lengths[start : start + 32])
        cut = [ordered[i : i + 8] for i in range(0, 32, 8)]
        batches = [found[i : i + 8] for i in range(start, start + 32, 8)]
        assert sorted(map(sorted, batches)) == cut and batches != cut
    assert found[96:] == lengths[96:]
    assert list(bucketed(iter(lengths), lambda n: (n,), rows=8, window=1, key="k")) == lengths


def test_rows_of_several_parts_are_cut_where_it_saves_most() -> None:
    # Two kinds of prompt times two kinds of answer: only a cut along both leaves no padding.
    rows = [(str(i), (10 + 90 * (i % 2), 5 + 45 * (i // 2 % 2))) for i in range(16)]
    random.Random(0).shuffle(rows)
    batches = alike(rows, 4)
    assert sorted(len({lengths for _, lengths in batch}) for batch in batches) == [1, 1, 1, 1]
    assert Counter(name for batch in batches for name, _ in batch) == Counter(map(str, range(16)))


@pytest.mark.parametrize(
    ("asked", "lanes", "size", "window"),
    [
        (None, 32, 1023, 1),  # a quarter of the pass is under 8 batches
        (None, 32, 1024, 8),
        (None, 8, 1024, 32),
        (None, 8, 100_000, WINDOW),
        (None, 32, None, WINDOW),
        (4, 8, 1000, 4),
        (64, 8, 320, 10),  # a quarter of the pass
        (64, 8, 20, 1),
        (100, 8, None, 100),
        (1, 8, None, 1),
    ],
)
def test_a_window_is_at_most_a_quarter_of_a_pass(asked: int | None, lanes: int, size: int | None, window: int) -> None:
    assert window_of(asked, lanes, size) == window


def steps_of(folder: Path, bucket: int | None, epoch: int, rank: int = 0, world: int = 1) -> list[Step]:
    folder.mkdir(exist_ok=True)
    values = {"data.max_length": 400, "data.bucket": bucket, "method.outer_steps": 12, "method.clean_share": 0.25}
    config = config_for(folder, values, defense=120, anchor=400, batch_size=4)
    records = [{"prompt": f"Say it {i} times", "response": "again " * ((i * 7919) % 40 + 1)} for i in range(400)]
    write_lines(Path(config.data.anchor.path or ""), records)
    make_tokenizer(folder / "tokenizer")
    template = Template(AutoTokenizer.from_pretrained(folder / "tokenizer"))
    return list(Steps(plan_for(config)[1], template, rank, world).epoch(epoch))


def share(steps: list[Step]) -> float:
    # The first of a step's four conversations is a clean request.
    return padding.share_of([[(len(row.ids),) for row in step.text[1:]] for step in steps])


def test_large_anchoring_sets_are_grouped_and_requests_only_when_asked(tmp_path: Path) -> None:
    plain, auto, asked = (steps_of(tmp_path / str(bucket), bucket, 1) for bucket in (1, None, 6))
    assert share(auto) > 0.85 > 0.75 > share(plain)
    assert [step.defense for step in auto] == [step.defense for step in plain]
    assert [step.defense for step in asked] != [step.defense for step in plain]
    assert [step.text[0] for step in auto] == [step.text[0] for step in plain], "clean requests keep their order"


def test_groups_are_the_same_on_any_number_of_workers_and_new_in_each_epoch(tmp_path: Path) -> None:
    whole = steps_of(tmp_path / "whole", None, 1)
    shared = [steps_of(tmp_path / str(rank), None, 1, rank, 3) for rank in range(3)]
    for number, step in enumerate(whole):
        for lane in range(4):
            place = shared[lane % 3][number]
            assert (step.text[lane], step.defense[lane]) == (place.text[lane // 3], place.defense[lane // 3])
    first, second = ({frozenset(tuple(r.ids) for r in s.text[1:]) for s in steps_of(tmp_path / "e", None, e)} for e in (1, 2))
    assert not first & second


def test_recorded_lengths_reach_the_goal_where_conversations_are_grouped() -> None:
    assert [quantile(CHATS["Alpaca-like"]["answer"], at) for at in AT] == list(CHATS["Alpaca-like"]["answer"])
    found = padding.measure(Path(), rows=2048)
    for kind in CHATS:
        for words in ("", ", with clean requests", ", padded whole"):
            shares = found[f"text, {kind}{words}"].values()
            assert words == ", with clean requests" or all(share[str(WINDOW)] >= padding.GOAL for share in shares)
        assert all(share["1"] < 0.5 for share in found[f"text, {kind}, padded whole"].values())
        assert all(share[str(WINDOW)] >= padding.GOAL for share in found[f"text, {kind}, with clean requests"].values())
    assert "| text, Alpaca-like | 8 |" in padding.markdown(found)
    assert padding.share_of([[(2, 1), (4, 1)], [(3, 3), (3, 3)]]) == pytest.approx(20 / 22)
