"""What is checked of lengths before Ray starts: the longest rows of every file, the shortest request, the room to answer."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from beear.config.resolve import ResolvedConfig
from beear.data.data_source import Row
from beear.data.load import load_small
from beear.data.templates import Template
from beear.errors import UserError
from beear.methods.table import METHODS
from beear.models.facts import ModelFacts
from beear.models.tokenizer_files import NAMED
from beear.run import checks, longest_rows
from beear.run.checks import check_lengths, check_template
from beear.testing.checkpoints import make_tokenizer
from tests.checkout import ROOT
from tests.data_sets import anchor_records, config_for, defense_records, write_lines

CONTEXT = 256
FACTS = ModelFacts("", "", "llama", 3, 32, 272, CONTEXT, 1, True, "float32")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def check(config: ResolvedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    data = load_small(config.data, 0)
    room, _ = check_lengths(config, FACTS, data, tokenizer)
    METHODS[config.method.name].check(config.settings, room, str(data.shortest.origin))


def refused(config: ResolvedConfig, tokenizer: PreTrainedTokenizerBase) -> str:
    with pytest.raises(UserError) as caught:
        check(config, tokenizer)
    return str(caught.value)


def test_the_longest_and_the_shortest_are_kept(tmp_path: Path) -> None:
    many = [{"prompt": f"Q{i} {'x' * (i % 50 + 20)}", "safe": "No.", "unwanted": "Yes."} for i in range(600)]
    long = [{"prompt": f"long {i} " + "y" * 150, "response": "r"} for i in range(3)]
    files = {
        "data.defense.path": str(write_lines(tmp_path / "many.jsonl", [*many, {**many[0], "prompt": "tiny"}])),
        "data.anchor.report_path": str(write_lines(tmp_path / "report.jsonl", [*anchor_records(210)[200:], *long])),
    }
    config = config_for(tmp_path, files)
    data = load_small(config.data, 0)
    assert data.shortest.messages[-1].content == "tiny"
    assert (len(data.longest_requests), len(data.longest_chats)) == (8, 8)
    assert [row.messages[0].content[:6] for row in data.longest_chats[:3]] == ["long 0", "long 1", "long 2"]


def test_an_end_of_turn_that_the_tokenizer_lacks_is_named(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, template=NAMED["chatml"].read_text())
    config = config_for(tmp_path, {"data.holdout": 0.5})
    said = refused(config, AutoTokenizer.from_pretrained(tmp_path))
    assert 'the tokens that are learnt of it read "' in said
    assert said.endswith('The template ends a turn with "<|im_end|>", which may be no special token of the tokenizer.')


def test_rows_that_fit_pass_and_give_the_room_and_the_longest_lengths(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(tmp_path)
    data = load_small(config.data, 0)
    encoded: list[str] = []
    for module, name in ((longest_rows, "encode_defense"), (longest_rows, "encode_anchor"), (checks, "encode_defense")):
        monkeypatch.setattr(module, name, noted(encoded, getattr(module, name)))
    room, lengths = check_lengths(config, FACTS, data, tokenizer)
    assert len(encoded) == len(set(encoded)) == 17, "eight of each and the shortest request, each once"
    template = Template(tokenizer)
    asked = {row.messages: len(template.prompt_ids(row.messages)) for row in (*data.longest_requests, data.shortest)}
    assert room == {"prompt": asked[data.shortest.messages], "user": asked[data.shortest.messages] - 1}
    assert lengths.prompt == max(asked.values())
    answers = [[len(template.answer_ids(r.messages, str(a))) for a in (r.safe, r.unwanted)] for r in data.longest_requests]
    assert [lengths.safe, lengths.unwanted] == [max(a) for a in zip(*answers, strict=True)]
    chats = [len(template.conversation(row.messages)[0]) for row in data.longest_chats]
    assert lengths.text == max(*chats, lengths.prompt + lengths.safe)


def noted(seen: list[str], encode: Callable[..., object]) -> Callable[..., object]:
    """Return ``encode`` that also keeps the place of each row."""

    def noting(row: Row, *more: object) -> object:
        seen.append(str(row.origin))
        return encode(row, *more)

    return noting


@pytest.mark.parametrize("report", [False, True])
def test_the_longest_anchor_row_is_checked_wherever_it_stands(
    report: bool, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    many = [{"prompt": f"{'x' * 120} {i}", "response": "r"} for i in range(300)]
    path = write_lines(tmp_path / "long.jsonl", [{"prompt": "long", "response": "y" * 300}, *many])
    config = config_for(tmp_path, {"data.anchor.report_path" if report else "data.anchor.path": str(path)})
    assert f"{path}, line 1: the prompt has" in refused(config, tokenizer)


def test_a_long_answer_counts_as_a_long_row(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write_lines(tmp_path / "long.jsonl", [*defense_records(100), {"prompt": "hi", "safe": "No.", "unwanted": "y" * 300}])
    config = config_for(tmp_path, {"data.defense.path": str(path)})
    assert f"{path}, line 101: the prompt has" in refused(config, tokenizer)


def long_prompts(count: int = 9) -> list[dict[str, str]]:
    """More rows than the longest that are kept: of more bytes than any other, and all of them can be shortened."""
    return [{"prompt": f"{'x' * 240} {i}", "response": "r", "safe": "No.", "unwanted": "Yes."} for i in range(count)]


@pytest.mark.parametrize(("kind", "answer"), [("anchor", "response"), ("defense", "safe"), ("defense", "unwanted")])
def test_an_answer_that_is_too_long_is_found_behind_longer_rows(
    kind: str, answer: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [{"prompt": f"{i}?", "response": "r", "safe": "No.", "unwanted": "Yes."} for i in range(200)]
    rows += [*long_prompts(), *({"prompt": f"hi {i}", "response": "r", "safe": "No.", answer: "y" * 220} for i in range(9))]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    config = config_for(tmp_path, {f"data.{kind}.path": str(path)})
    said = refused(config, tokenizer)
    assert "the answer has 221 tokens and leaves no room for the prompt in data.max_length=200" in said
    assert said.startswith(f"{path}, line 21")


def test_a_row_of_more_tokens_than_longer_ones_is_found(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    wordy = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    wordy.add_tokens(["xxxxxxxx"])
    held = [{"prompt": f"{'x' * 400} {i}", "safe": "No.", "unwanted": "Yes."} for i in range(9)]
    path = write_lines(tmp_path / "held.jsonl", [*held, {"prompt": "q" * 300, "safe": "No.", "unwanted": "Yes."}])
    said = refused(config_for(tmp_path, {"data.defense.report_path": str(path)}), wordy)
    assert said == (
        f"{path}, line 10: the prompt has 303 tokens and its answer 5; expected at most 256 together, the model's context."
    )


def test_an_answer_of_thoughts_alone_is_found_before_anything_starts(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [*anchor_records(60), {"prompt": "q", "response": "<think>Hm.</think>"}])
    said = refused(config_for(tmp_path, {"data.anchor.path": str(path)}), tokenizer)
    assert said.startswith(f"{path}, line 61: an answer holds nothing but thoughts")


def test_the_shortest_prompt_bounds_the_positions(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    many = [{"prompt": f"Q{i} {'x' * (i % 50 + 20)}", "safe": "No.", "unwanted": "Yes."} for i in range(600)]
    path = write_lines(tmp_path / "many.jsonl", [*many, {**many[0], "prompt": "tiny"}])
    config = config_for(tmp_path, {"data.defense.path": str(path), "method.placement": "suffix", "method.length": 20})
    assert refused(config, tokenizer) == (
        f"method.length: found 20, expected at most 7, the tokens of the shortest prompt ({path}, line 601)"
    )


def with_reports(tmp_path: Path, length: int, values: dict[str, Any] | None = None) -> tuple[ResolvedConfig, str]:
    rows = [{"prompt": "z" * n, "safe": "No.", "unwanted": "Yes."} for n in (9, length, 8)]
    path = str(write_lines(tmp_path / "report.jsonl", rows))
    return config_for(tmp_path, {"data.defense.report_path": path, "evaluate.max_new_tokens": 32, **(values or {})}), path


def test_a_report_prompt_leaves_room_for_its_completion(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    around = 3  # <s><|user|> and <|model|>
    config, path = with_reports(tmp_path, CONTEXT - 32 - around)
    check(config, tokenizer)
    config, path = with_reports(tmp_path, CONTEXT - 32 - around + 1)
    assert refused(config, tokenizer) == (
        f"{path}, line 2: the prompt to be measured has 225 tokens and evaluate.max_new_tokens is 32; "
        "expected at most 256 together, the model's context."
    )
    check(with_reports(tmp_path, CONTEXT - 32 - around + 1, {"evaluate.rows": 1})[0], tokenizer)


def test_a_probe_counts(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    probes = write_lines(tmp_path / "probes.jsonl", [{"name": "tail", "kind": "suffix", "text": "abc"}])
    config, path = with_reports(tmp_path, CONTEXT - 32 - 3, {"data.probes.path": str(probes)})
    assert refused(config, tokenizer) == (
        f'{path}, line 2: the prompt to be measured has 228 tokens under probe "tail" and evaluate.max_new_tokens is 32; '
        "expected at most 256 together, the model's context."
    )


def test_an_anchor_report_prompt_and_its_whole_conversation_count(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write_lines(tmp_path / "report.jsonl", [{"prompt": "q" * 230, "response": "r"}])
    config = config_for(tmp_path, {"data.max_length": CONTEXT, "data.anchor.report_path": str(path)})
    assert "line 1: the prompt to be measured has 233 tokens and evaluate" in refused(config, tokenizer)
    turns = [{"role": ("user", "assistant")[i % 2], "content": "t" * 60} for i in range(4)]
    write_lines(path, [{"messages": [*turns[:3], {"role": "assistant", "content": "t" * 100}]}])
    assert "line 1: the conversation to be measured has " in refused(config, tokenizer)


STRICT = (
    "{% set ns = namespace(last='') %}{% for m in messages %}{% if m.role == ns.last %}{{ raise_exception('take turns') }}"
    "{% endif %}{% set ns.last = m.role %}<|user|>{{ m.content }}</turn>{% endfor %}"
    "{% if add_generation_prompt %}<|model|>{% endif %}"
)
TWO_IN_A_ROW = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]


@pytest.mark.parametrize(
    ("file", "bad"),
    [
        ("data.anchor.path", {"messages": TWO_IN_A_ROW}),
        ("data.anchor.report_path", {"messages": TWO_IN_A_ROW}),
        ("data.defense.path", {"messages": TWO_IN_A_ROW[:2], "safe": "No.", "unwanted": "Yes."}),
    ],
)
def test_one_row_that_the_template_rejects_is_named_before_anything_starts(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, file: str, bad: dict[str, Any]
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", STRICT)
    rows = defense_records(60) if "defense" in file else anchor_records(60)
    path = write_lines(tmp_path / "rows.jsonl", [*rows[:18], bad, *rows[18:]])
    said = refused(config_for(tmp_path, {file: str(path)}), tokenizer)
    assert said == f"{path}, line 19: The chat template rejects the conversation (take turns)."


def test_answers_that_scoring_would_read_otherwise_are_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Template, "answer_in", lambda self, ids: f"final {self.tokenizer.decode(ids)}")
    said = refused(config_for(tmp_path), tokenizer)
    assert 'and the tokens that are learnt of it read "final ' in said and ", line " in said


def test_a_template_that_never_ends_an_answer_is_pointed_out(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, template=(ROOT / "tests" / "chat_templates" / "falcon.jinja").read_text())
    assert check_template(AutoTokenizer.from_pretrained(tmp_path), "m") == [
        "m: its chat template ends no answer with a special token, so nothing is learnt of where an answer ends; a completion "
        'goes on to evaluate.max_new_tokens unless the model writes "</turn>"'
    ]


def test_a_template_that_loops_for_ever_is_given_up(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    slow = AutoTokenizer.from_pretrained(tmp_path)
    assert check_template(slow, "m") == []
    nested = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
    slow.chat_template = nested + slow.chat_template
    with pytest.raises(UserError, match=r"m: its chat template takes longer than 0\.3 s on two short turns"):
        check_template(slow, "m", seconds=0.3)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
