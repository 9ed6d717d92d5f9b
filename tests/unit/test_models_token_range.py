"""Token ids beyond the embedding: a pad token may have one and is never looked up; anything else that text gives is refused."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from beear.data.collate import collate_defense, collate_text
from beear.data.encode import encode_anchor, encode_defense
from beear.data.load import load_small
from beear.data.local import pad_id_of
from beear.data.rows import AnchorRow, DefenseRow, Message
from beear.data.templates import Template
from beear.errors import UserError
from beear.evaluation.generate import generate_ids
from beear.evaluation.subject import Subject
from beear.models.export import export_model
from beear.models.facts import ModelFacts
from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_config, load_model, load_tokenizer
from beear.run.checks import check_lengths
from beear.testing.checkpoints import VOCABULARY, edit_json, make_checkpoint
from tests.data_sets import anchor_records, config_for, defense_records, write_lines

# Ids of the tokenizer: 6 special ones and 256 bytes.
IDS, END = 262, 2
FACTS = ModelFacts("", "", "llama", 3, 32, IDS, 256, 1, False, "float32")


def padded_beyond(folder: Path, sentencepiece: bool = False, **fields: object) -> Path:
    """Write a checkpoint whose tokenizer has one id more than the embedding has rows, that of its pad token."""
    if sentencepiece:
        make_checkpoint(folder, sentencepiece=True, rows=400)
        (folder / "added_tokens.json").write_text('{"[PAD]": 400}')
        (folder / "special_tokens_map.json").write_text('{"pad_token": "[PAD]"}')
    else:
        make_checkpoint(folder, rows=IDS)
        edit_json(folder / "tokenizer_config.json", **{"pad_token": "[PAD]", **fields})
    return folder


def loaded(folder: Path):
    return load_tokenizer(inspect_checkpoint(str(folder)))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def chat(*texts: str) -> tuple[Message, ...]:
    return tuple(Message("assistant" if number % 2 else "user", text) for number, text in enumerate(texts))


def row(question: str, safe: str = "No.", unwanted: str = "Yes, of course I will.") -> DefenseRow:
    return DefenseRow(chat(question), safe, unwanted, origin="file.jsonl line 7")


@pytest.mark.parametrize("sentencepiece,index", [(False, IDS), (True, 400)])
def test_a_pad_token_beyond_the_embedding_never_reaches_the_model(tmp_path, sentencepiece, index):
    folder = padded_beyond(tmp_path, sentencepiece)
    facts = inspect_checkpoint(str(folder))
    plain, tokenizer, model = AutoTokenizer.from_pretrained(folder), load_tokenizer(facts), load_model(facts, torch.float32)
    assert tokenizer.convert_tokens_to_ids("[PAD]") == index == facts.vocab_size
    if not sentencepiece:
        assert plain.pad_token_id == index
    assert tokenizer.pad_token_id == pad_id_of(tokenizer) == END and tokenizer.without_embedding == {index: "[PAD]"}
    template = Template(tokenizer)
    rows = [encode_defense(row("a" * n), template, 200) for n in (1, 9)]
    batch = collate_defense(rows, pad_id_of(tokenizer), 2)
    text = collate_text(
        [encode_anchor(AnchorRow(chat("a" * n, "b" * n)), template, 200) for n in (1, 9)], pad_id_of(tokenizer), 2
    )
    for ids, mask in ((batch.prompt_ids, batch.prompt_mask), (batch.safe_ids, batch.safe_mask), (text.ids, text.mask)):
        assert ids.max() < index and (ids[~mask] == END).all()
        assert torch.isfinite(model(input_ids=ids, attention_mask=mask.long()).logits).all()
    subject = Subject.of(model, tokenizer, template)
    assert subject.pad_id == END
    # Beside a longer one, a padded prompt is continued as it is alone.
    prompts = [template.prompt_ids(chat(text)) for text in ("a", "a longer one")]
    assert generate_ids(subject, prompts, 6, 2) == [generate_ids(subject, [ids], 6, 1)[0] for ids in prompts]


@pytest.mark.parametrize("sentencepiece", [False, True])
def test_a_row_with_the_literal_pad_token_is_refused_by_file_and_line(tmp_path, sentencepiece):
    template = Template(loaded(padded_beyond(tmp_path, sentencepiece)))
    said = 'file.jsonl line 7: its text has the token "[PAD]", for which the model has no embedding; expected text without it.'
    for bad in (row("What is [PAD]?"), row("What?", safe="It is [PAD]."), row("What?", unwanted="[PAD]")):
        with pytest.raises(UserError) as caught:
            encode_defense(bad, template, 200)
        assert str(caught.value) == said
        # The check of every row before anything starts.
        with pytest.raises(UserError, match=r'token "\[PAD\]"'):
            template.check(bad.messages, [str(bad.safe), str(bad.unwanted)])
    for texts in (("[PAD]", "b"), ("a", "[PAD]"), ("a", "[PAD]", "c", "d")):
        with pytest.raises(UserError) as caught:
            encode_anchor(AnchorRow(chat(*texts), origin="file.jsonl line 7"), template, 200)
        assert str(caught.value) == said
    template.check(chat("What is PAD?"), ["It is [ PAD ]."])


def test_the_export_keeps_the_tokenizer_s_own_pad_token(tmp_path):
    folder = padded_beyond(tmp_path / "source")
    facts = inspect_checkpoint(str(folder))
    load_tokenizer(facts)
    out = export_model(AutoModelForCausalLM.from_pretrained(folder), facts, tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert AutoTokenizer.from_pretrained(out).pad_token_id == IDS


def test_an_embedding_larger_than_the_tokenizer_works(tmp_path):
    folder = make_checkpoint(tmp_path, rows=320)
    facts = inspect_checkpoint(str(folder))
    tokenizer, model = load_tokenizer(facts), load_model(facts, torch.float32)
    assert len(tokenizer) == IDS and model.get_input_embeddings().weight.shape[0] == 320
    assert tokenizer.pad_token == "<pad>" and tokenizer.without_embedding == {}
    with torch.no_grad():
        # The model is made to write an id that the tokenizer does not know.
        model.lm_head.weight.zero_()
        model.lm_head.weight[300] = 1.0
        model.model.norm.weight.fill_(0.0)
        model.lm_head.bias = torch.nn.Parameter(torch.eye(320)[300])
    subject = Subject.of(model, tokenizer)
    assert generate_ids(subject, [[1, 9]], 3, 1) == [[300, 300, 300]] and subject.text([300, 300]) == ""


@pytest.mark.parametrize("fields,named", [
    ({"extra_special_tokens": ["<|im_start|>"]}, '263 ("<|im_start|>")'),
    ({"eos_token": "[PAD]"}, '262 ("[PAD]")'),
    ({"bos_token": "[PAD]"}, '262 ("[PAD]")'),
    ({"unk_token": "<|unknown|>"}, '262 ("<|unknown|>")'),
], ids=str)  # fmt: skip
def test_other_tokens_beyond_the_embedding_stay_refused(tmp_path, fields, named):
    folder = padded_beyond(tmp_path, **fields)
    assert refusal(folder) == (
        f"{folder}: found token ids up to {named}, expected less than the model's vocabulary of 262 "
        "for all but the pad token and tokens that no text gives"
    )


def with_entry(folder: Path, token: str, index: int = VOCABULARY, **model: object) -> Path:
    """Write a checkpoint whose tokenizer.json holds an entry beyond the embedding, after a hole."""
    make_checkpoint(folder)
    written = json.loads((folder / "tokenizer.json").read_text())
    written["model"]["vocab"][token] = index
    edit_json(folder / "tokenizer.json", model={**written["model"], **model})
    return folder


def test_an_entry_that_no_text_gives_is_accepted(tmp_path):
    tokenizer = loaded(with_entry(tmp_path, "unused-1"))
    assert tokenizer.without_embedding == {VOCABULARY: "unused-1"} and tokenizer.pad_token == "<pad>"
    assert max(Template(tokenizer).prompt_ids(chat("unused-1"))) < IDS


@pytest.mark.parametrize("token,model", [
    ("ab", {"merges": [["a", "b"]]}),
    ("\u3042", {}),
    ("unused-1", {"ignore_merges": True}),
    ("unused-1", {"unk_token": "unused-1"}),
    ("<0xFF>", {"byte_fallback": True}),
], ids=str)  # fmt: skip
def test_an_entry_that_text_may_give_is_refused(tmp_path, token, model):
    said = refusal(with_entry(tmp_path, token, **model))
    assert f'found token ids up to {VOCABULARY} ("{token}"), expected less than the model\'s vocabulary of {VOCABULARY}' in said


def test_the_end_token_as_pad_is_still_learnt_where_it_ends_an_answer(tmp_path):
    folder = make_checkpoint(tmp_path)
    edit_json(folder / "tokenizer_config.json", pad_token="</turn>")
    tokenizer = loaded(folder)
    template = Template(tokenizer)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == pad_id_of(tokenizer) == END
    anchors = [encode_anchor(AnchorRow(chat(*texts)), template, 200) for texts in (("a", "b"), ("aaaa", "bbbbb", "c", "d"))]
    text = collate_text(anchors, END, 2)
    # One end for each answer is labelled and seen; what fills up the shorter row is neither.
    ends = (text.ids == END) & text.labelled
    assert ends.sum(1).tolist() == [1, 2] and (ends & ~text.mask).sum() == 0
    assert ends[0].nonzero().item() == text.mask[0].sum() - 1 and not text.labelled[~text.mask].any()
    rows = [encode_defense(row("a", *answers), template, 200) for answers in (("b", "ccc"), ("bbb", "c"))]
    batch = collate_defense(rows, END, 2)
    safe = batch.safe_ids, batch.safe_mask, batch.safe_labelled
    unwanted = batch.unwanted_ids, batch.unwanted_mask, batch.unwanted_labelled
    for ids, mask, labelled in (safe, unwanted):
        last = mask.sum(1) - 1
        assert (ids[range(2), last] == END).all() and labelled[range(2), last].all() and torch.equal(labelled, mask)


def test_a_pad_id_of_the_configuration_below_zero_is_none(tmp_path):
    folder = make_checkpoint(tmp_path)
    edit_json(folder / "config.json", pad_token_id=-1)
    model = load_model(inspect_checkpoint(str(folder)), torch.float32)
    assert model.get_input_embeddings().padding_idx is None
    model(input_ids=torch.tensor([[VOCABULARY - 1, 9]])).logits.sum().backward()
    assert model.get_input_embeddings().weight.grad[VOCABULARY - 1].abs().sum() > 0


def test_a_pad_id_of_the_configuration_beyond_the_vocabulary_is_refused(tmp_path):
    folder = make_checkpoint(tmp_path)
    edit_json(folder / "config.json", pad_token_id=VOCABULARY)
    with pytest.raises(UserError) as caught:
        load_config(str(folder))
    assert str(caught.value) == (
        f'{folder}/config.json: found "pad_token_id": 272, of which the library builds no embedding of 272 rows, '
        "expected a smaller one or none"
    )


@pytest.mark.parametrize("where", ["defense", "anchor", "probes"])
def test_data_with_the_literal_pad_token_is_refused_before_anything_starts(tmp_path, where):
    tokenizer = loaded(padded_beyond(tmp_path / "model"))
    records = {
        "defense": [*defense_records(60), {"prompt": "a", "safe": "No.", "unwanted": "[PAD]"}],
        "anchor": [*anchor_records(60), {"prompt": "a [PAD]", "response": "b"}],
        "probes": [{"name": "trigger", "kind": "suffix", "text": "[PAD]"}],
    }
    path = write_lines(tmp_path / "bad.jsonl", records[where])
    config = config_for(tmp_path, {f"data.{where}.path": str(path)})
    with pytest.raises(UserError) as caught:
        check_lengths(config, FACTS, load_small(config.data, 0), tokenizer)
    assert str(caught.value).endswith(
        'its text has the token "[PAD]", for which the model has no embedding; expected text without it.'
    )
    assert (' under probe "trigger": its' if where == "probes" else f"{path}, line 61: its") in str(caught.value)
