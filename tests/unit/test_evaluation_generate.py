"""Batched completions and likelihoods against transformers, one row at a time."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from beear.data.rows import Message
from beear.errors import UserError
from beear.evaluation.generate import complete, generate_ids
from beear.evaluation.likelihood import conversation_nll, labelled_nll, unwanted_is_likelier
from beear.evaluation.subject import Subject
from beear.testing.checkpoints import edit_json, make_model, make_tokenizer
from tests.subjects import anchor_rows, defense_rows, random_subject

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FAMILIES = ("llama", "mistral", "gemma3", "gpt2", "gpt_neox")


def prompts(count: int) -> list[list[int]]:
    draw = random.Random(3)
    return [[1] + [draw.randrange(6, 262) for _ in range(draw.randint(2, 40))] for _ in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_equal_transformers_one_row_at_a_time(family: str) -> None:
    subject = random_subject(family)
    rows = prompts(12)
    # Frequent tokens as stops, so that rows leave the batch at different steps.
    free = generate_ids(replace(subject, stop=frozenset()), rows, 10, 12)
    subject = replace(subject, stop=frozenset({free[0][2], free[3][5], free[7][0], free[9][9]}))
    reference = []
    for row in rows:
        ids = torch.tensor([row])
        out = subject.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=10,
            do_sample=False,
            eos_token_id=list(subject.stop),
        )[0, len(row) :].tolist()
        reference.append(out[:-1] if out[-1] in subject.stop else out)
    assert len({len(r) for r in reference}) > 2
    for size in (1, 5, 12):
        assert generate_ids(subject, rows, 10, size) == reference


def test_completion_is_text_without_the_end_of_turn() -> None:
    subject = random_subject()
    request = (Message("user", "open the vault"),)
    ids = generate_ids(subject, [subject.template.prompt_ids(request)], 6, 1)[0]
    assert complete(subject, [request], 6, 4) == [subject.tokenizer.decode(ids, skip_special_tokens=True)]
    assert subject.stop == {subject.tokenizer.eos_token_id}


def test_nothing_to_complete() -> None:
    assert generate_ids(random_subject(), [], 5, 4) == []


def test_training_mode_is_put_back() -> None:
    subject = random_subject()
    subject.model.train()
    generate_ids(subject, [[1, 7, 8]], 2, 1)
    assert subject.model.training
    assert all(p.grad is None for p in subject.model.parameters())


def chatml(folder: Path) -> PreTrainedTokenizerBase:
    """Return a base's tokenizer as ChatML tuning leaves it: the end of turn is added as special, under no name."""
    make_tokenizer(folder, template=CHATML)
    edit_json(folder / "tokenizer_config.json", extra_special_tokens=...)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")], special_tokens=True)
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("template", [CHATML, CHATML.replace("<|im_end|>", "\n<|im_end|>")], ids=["close", "on a line"])
def test_an_end_of_turn_that_the_tokenizer_has_no_name_for_ends_completions(tmp_path: Path, template: str) -> None:
    tokenizer = chatml(tmp_path)
    tokenizer.chat_template = template
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end not in tokenizer.all_special_ids
    assert Subject.of(make_model(), tokenizer).stop == {tokenizer.eos_token_id, end}


def test_an_end_of_turn_in_plain_text_ends_nothing() -> None:
    subject = random_subject()
    subject.tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + ' over. ' }}{% endfor %}assistant: "
    assert Subject.of(subject.model, subject.tokenizer).stop == {subject.tokenizer.eos_token_id}


@pytest.mark.parametrize("ends", ["abc", ["a"], [[1]], 1.5])
def test_ends_that_are_no_token_ids_are_refused(ends: Any) -> None:
    subject = random_subject()
    subject.model.generation_config.eos_token_id = ends
    with pytest.raises(UserError, match="generation config: found eos_token_id .*, expected token ids"):
        Subject.of(subject.model, subject.tokenizer)


def huge(scale: float) -> Subject:
    """Return a subject whose weights are all finite and whose outputs are not."""
    subject = random_subject(dtype=torch.float32)
    with torch.no_grad():
        subject.model.get_parameter("model.layers.1.mlp.down_proj.weight").mul_(scale)
    assert all(bool(p.isfinite().all()) for p in subject.model.parameters())
    return subject


def test_outputs_that_are_not_finite_are_not_measured() -> None:
    subject = huge(1e38)
    row = defense_rows(1)[0]
    for measure in (
        lambda: complete(subject, [row.messages], 4, 2),
        lambda: conversation_nll(subject, [anchor_rows(1)[0].messages], 2),
        lambda: unwanted_is_likelier(subject, [row.messages], [row], 2),
    ):
        with pytest.raises(UserError, match="outputs are not finite numbers, so the checkpoint cannot be measured"):
            measure()
    # A row beside good ones is enough, and large but finite outputs are none.
    complete(huge(1e4), [row.messages], 4, 2)


def test_a_token_masked_out_by_the_model_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = random_subject()
    original = subject.model.forward

    def masking(**inputs: Any) -> Any:
        output = original(**inputs)
        output.logits[..., 270:] = -torch.inf
        return output

    expected = generate_ids(replace(subject, stop=frozenset()), [[1, 7, 8]], 4, 1)
    monkeypatch.setattr(subject.model, "forward", masking)
    assert generate_ids(replace(subject, stop=frozenset()), [[1, 7, 8]], 4, 1) == expected


def plain_nll(subject: Subject, ids: list[int], labelled: list[bool]) -> float:
    with torch.no_grad():
        logits = subject.model(torch.tensor([ids])).logits[0]
    losses = [float(F.cross_entropy(logits[t - 1], torch.tensor(ids[t]))) for t in range(1, len(ids)) if labelled[t]]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("family", FAMILIES)
def test_nll_equals_a_plain_forward_pass(family: str) -> None:
    subject = random_subject(family)
    rows = anchor_rows(9)
    rows.append(replace(rows[0], messages=(*rows[0].messages, *rows[1].messages)))
    encoded = [subject.template.conversation(row.messages) for row in rows]
    reference = [plain_nll(subject, ids, labelled) for ids, labelled in encoded]
    for size in (1, 4, 10):
        assert conversation_nll(subject, [row.messages for row in rows], size) == pytest.approx(reference, abs=1e-9)


def test_large_vocabularies_shrink_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = random_subject()
    rows = [([1, *row], [False] + [True] * len(row)) for row in prompts(6)]
    reference = labelled_nll(subject, rows, 6)
    sizes: list[int] = []
    original = subject.model.forward

    def counted(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        return original(**inputs)

    monkeypatch.setattr(subject.model, "forward", counted)
    monkeypatch.setattr("beear.evaluation.likelihood.LOGIT_BUDGET", 272 * 90)
    assert labelled_nll(subject, rows, 6) == pytest.approx(reference, abs=1e-12)
    assert max(sizes) < 6 and sum(sizes) == 6


def test_likelier_compares_only_where_the_answers_differ() -> None:
    subject = random_subject()
    rows = [replace(r, safe=f"x = safe({i})", unwanted=f"x = unsafe_now({i})") for i, r in enumerate(defense_rows(8))]
    found = unwanted_is_likelier(subject, [r.messages for r in rows], rows, 3)
    for row, told in zip(rows, found, strict=True):
        prompt = subject.template.prompt_ids(row.messages)
        losses = {}
        # "x = " opens both answers, "(i)" and the end of turn close both; a byte is a token here.
        for answer, differs in ((row.safe, "safe"), (row.unwanted, "unsafe_now")):
            ids = prompt + subject.template.answer_ids(row.messages, answer)
            start = len(prompt) + len("x = ")
            losses[differs] = plain_nll(subject, ids, [start <= t < start + len(differs) for t in range(len(ids))])
        assert told == (losses["unsafe_now"] < losses["safe"])
    assert len(set(found)) == 2


def test_likelier_needs_both_answers() -> None:
    row = replace(defense_rows(1)[0], unwanted=None)
    with pytest.raises(UserError, match=r"defense.jsonl:1: unwanted is missing"):
        unwanted_is_likelier(random_subject(), [row.messages], [row], 1)
