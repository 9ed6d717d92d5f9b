"""Tokenizers that people bring: a tokenizer.model alone gives sentencepiece's own tokens, and classes go by many names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from beear.errors import UserError
from beear.models.export import export_model
from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_tokenizer
from beear.testing.checkpoints import edit_json, make_checkpoint, make_sentencepiece

TEXTS = [
    "How do I bake bread at home?", " a leading space", "   three of them", "trailing  ", "  ", " ", "", "a\nb", "12,345.67",
    "\n\nlines\n  and\n\n\tmore\r\n", "naïve café – “quoted”", "日本語とенглиш", "🙂 emoji 👩\u200d👩\u200d👧", "The THE the tHe",
    "[INST] brackets [/INST]", "\u2581mark", "e\u0301", "\x07", "half\u00a0space", "<s", "a <unk", "<0x0A> <0xFF>",
    "dough rest " * 30,
]  # fmt: skip
SYMBOLS = {"user_defined_symbols": ["\n\n", "\u2581\u2581", "[REF]", "a.b*"]}
GEMMA = {"add_dummy_prefix": False, "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "control_symbols": ["<start_of_turn>"]}
# What sentencepiece is trained with, what tokenizer_config.json says, and whether text gets a space before it.
KINDS = {
    "llama": ({}, {}, True),
    "llama of 2023": ({}, {"legacy": ...}, True),
    "llama without a space": ({}, {"add_prefix_space": False}, False),
    "gemma": ({**GEMMA, **SYMBOLS}, {"tokenizer_class": "GemmaTokenizer"}, False),
    "mistral": ({**SYMBOLS, "control_symbols": ["[INST_]", "[/INST_]"]}, {"legacy": True}, True),
    "unknown letters": ({"byte_fallback": False, "vocab_size": 110}, {}, True),
    "unigram": ({"model_type": "unigram", "byte_fallback": False, "vocab_size": 110}, {"legacy": True}, True),
    "normalised": ({"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}, {"legacy": True}, True),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("whole") / "model", sentencepiece=True)


def with_kind(folder: Path, kind: str, family: str = "llama") -> tuple[Path, SentencePieceProcessor]:
    """Write a checkpoint with a tokenizer.model alone; return it with sentencepiece's own reading of that file."""
    training, settings, prefixed = KINDS[kind]
    make_checkpoint(folder, family, sentencepiece=True)
    make_sentencepiece(folder, **training)
    edit_json(folder / "tokenizer_config.json", **settings)
    return folder, reading(folder, prefixed)


def reading(folder: Path, prefixed: bool) -> SentencePieceProcessor:
    """Return sentencepiece's own reading of a tokenizer.model, with a space before text or without."""
    proto = sentencepiece_model_pb2.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    proto.normalizer_spec.add_dummy_prefix = prefixed
    return SentencePieceProcessor(model_proto=proto.SerializeToString())


def loaded(folder: Path):
    return load_tokenizer(inspect_checkpoint(str(folder)))


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_model_alone_gives_sentencepiece_s_own_tokens(tmp_path, kind):
    folder, own = with_kind(tmp_path, kind)
    tokenizer = loaded(folder)
    assert len(tokenizer) == own.get_piece_size()
    for text in TEXTS:
        assert ids_of(tokenizer, text) == own.encode(text), text
        if own.unk_id() not in own.encode(text):
            assert tokenizer.decode(own.encode(text)) == own.decode(own.encode(text)), text


@pytest.mark.parametrize("family", ["llama", "mistral", "mixtral", "gemma", "gemma2", "phi3"])
@pytest.mark.parametrize("named", [..., "LlamaTokenizer", "GemmaTokenizer", "LLaMATokenizer", "PreTrainedTokenizerFast"])
def test_the_family_and_the_class_change_no_token(tmp_path, whole, family, named):
    make_checkpoint(tmp_path, family, sentencepiece=True)
    edit_json(tmp_path / "tokenizer_config.json", tokenizer_class=named)
    own = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    tokenizer = loaded(tmp_path)
    assert [ids_of(tokenizer, text) for text in TEXTS] == [own.encode(text) for text in TEXTS]


def test_without_a_configuration_the_model_s_own_special_tokens_are_used(tmp_path):
    folder, own = with_kind(tmp_path, "gemma")
    (folder / "tokenizer_config.json").unlink()
    tokenizer = loaded(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token) == (
        "<s>",
        "</s>",
        "<pad>",
        "<unk>",
    )
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 1, 0)
    assert ids_of(tokenizer, "<start_of_turn>a") == [own.piece_to_id("<start_of_turn>"), *own.encode("a")]


@pytest.mark.parametrize("legacy,prefixed", [(True, True), (None, True), (..., True), (False, False)])
def test_legacy_says_whether_text_after_a_special_token_gets_a_space(tmp_path, legacy, prefixed):
    folder, own = with_kind(tmp_path, "llama")
    edit_json(folder / "tokenizer_config.json", legacy=legacy)
    later = reading(folder, prefixed)
    expected = [*own.encode(" first"), 2, 1, *later.encode("How do"), 2, *later.encode(" I")]
    assert ids_of(loaded(folder), " first</s><s>How do</s> I") == expected


@pytest.mark.parametrize("first,last,ends", [(..., ..., (True, False)), (False, ..., (False, False)), (True, True, (True, True))])
def test_the_library_adds_what_the_configuration_says(tmp_path, whole, first, last, ends):
    folder, own = with_kind(tmp_path, "llama")
    edit_json(folder / "tokenizer_config.json", add_bos_token=first, add_eos_token=last)
    text = "How do I bake"
    assert loaded(folder)(text)["input_ids"] == [1] * ends[0] + own.encode(text) + [2] * ends[1]


def test_special_and_added_tokens_come_from_the_files_beside(tmp_path):
    folder, own = with_kind(tmp_path, "llama of 2023")
    (folder / "added_tokens.json").write_text('{"<|im_end|>": 401, "<|im_start|>": 400, "<extra>": 402}')
    (folder / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|im_end|>"}, "unk_token": "<unk>"}')
    tokenizer = loaded(folder)
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.bos_token) == ("<|im_end|>", 401, "<s>")
    # Not special, and found in text all the same, as sentencepiece's own tokenizer in the library finds it.
    assert ids_of(tokenizer, "a<extra>b<|im_start|> c") == [*own.encode("a"), 402, *own.encode("b"), 400, *own.encode(" c")]
    assert tokenizer.decode([400, *own.encode("bake"), 401], skip_special_tokens=True).replace(" ", "") == "<|im_start|>bake"


def test_added_tokens_of_the_configuration_may_be_pieces_too(tmp_path):
    folder, own = with_kind(tmp_path, "llama of 2023")
    make_sentencepiece(folder, settings={"legacy": True}, control_symbols=["<spare>"])
    own = reading(folder, True)
    token = {"lstrip": False, "normalized": True, "rstrip": True, "single_word": False, "special": True}
    named = {1: "<s>", 2: "</s>", 3: "<|swapped|>", 400: "<|end|>"}
    decoder = {str(index): {**token, "content": content} for index, content in named.items()}
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder=decoder, eos_token="<|end|>")
    tokenizer = loaded(folder)
    assert {index: tokenizer.convert_ids_to_tokens(index) for index in named} == named
    assert ids_of(tokenizer, "How<|swapped|> do<|end|>") == [*own.encode("How"), 3, *own.encode("do"), 400]


def test_empty_special_tokens_and_the_first_name_of_the_class_are_read_as_meant_and_said(tmp_path):
    folder, own = with_kind(tmp_path, "llama of 2023")
    edit_json(folder / "tokenizer_config.json", tokenizer_class="LLaMATokenizer", bos_token="", eos_token="", unk_token="")
    (folder / "special_tokens_map.json").write_text('{"bos_token": {"content": ""}}')
    facts = inspect_checkpoint(str(folder))
    tokenizer = load_tokenizer(facts)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    assert ids_of(tokenizer, "<s>bake") == [1, *own.encode("bake")]
    assert facts.notes == (
        f'{folder}: tokenizer_class "LLaMATokenizer" is an old name, read as LlamaTokenizer',
        f"{folder}: tokenizer_config.json gives bos_token, eos_token, unk_token as empty text, read as not given",
        f"{folder}: special_tokens_map.json gives bos_token as empty text, read as not given",
        f"{folder}: tokenizer.model is read by a tokenizer.json made of it, which gives sentencepiece's own tokens",
    )


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma"])
@pytest.mark.parametrize("kind", ["llama", "gemma", "mistral"])
def test_the_export_loads_plainly_and_gives_the_same_tokens(tmp_path, family, kind):
    folder, own = with_kind(tmp_path / "source", kind, family)
    edit_json(
        folder / "tokenizer_config.json", **({} if kind == "gemma" else {"tokenizer_class": "LLaMATokenizer"}), eos_token=""
    )
    facts = inspect_checkpoint(str(folder))
    before = load_tokenizer(facts)
    out = export_model(AutoModelForCausalLM.from_pretrained(folder), facts, tmp_path / "out")
    plain, ours = AutoTokenizer.from_pretrained(out), loaded(out)
    assert (out / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()
    for text in [*TEXTS, "<s>How</s> do <s>[INST_]I"]:
        assert ids_of(plain, text) == ids_of(ours, text) == ids_of(before, text)
        assert plain(text)["input_ids"] == before(text)["input_ids"]
    assert [ids_of(plain, text) for text in TEXTS] == [own.encode(text) for text in TEXTS]
    roles = [[getattr(t, f"{role}_token_id") for role in ("bos", "eos", "unk")] for t in (plain, ours, before)]
    assert roles[0] == roles[1] == roles[2] and None not in roles[0]
    assert plain.chat_template == before.chat_template and inspect_checkpoint(str(out)).notes == ()


def holding(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "tokenizer.model").write_bytes(content) and None


def trained(**training: Any) -> Callable[[Path], None]:
    return lambda folder: make_sentencepiece(folder, **training)


def adding(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "added_tokens.json").write_text(content) and None


def decoding(**decoder: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "tokenizer_config.json", added_tokens_decoder=decoder)


REFUSED = {
    "tiktoken": (holding(b"IQ== 0\nIg== 1\n"), "no sentencepiece model (it may be a tiktoken file)"),
    "nothing": (holding(b""), "no sentencepiece model"),
    "characters": (trained(model_type="char", hard_vocab_limit=False), "of words, of characters or with unused pieces"),
    "spaces at ends": (trained(treat_whitespace_as_suffix=True), "and sentencepiece ["),
    "a gap": (adding('{"[PAD]": 405}'), '"[PAD]" with id 405, expected 400, the next'),
    "ids of text": (adding('{"[PAD]": "x", "y": []}'), "added_tokens.json: found"),
    "no content": (decoding(**{"1": {}}), "expected the text of every token"),
    "no number": (decoding(x={"content": "a"}), "expected tokens with their ids"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_tokenizer_model_that_cannot_be_read_exactly_is_refused(tmp_path, name):
    change, said = REFUSED[name]
    folder, _ = with_kind(tmp_path, "llama")
    change(folder)
    assert said in refusal(folder)


def test_a_family_whose_class_ignores_the_file_is_refused(tmp_path):
    folder, _ = with_kind(tmp_path, "llama", "qwen2")
    assert f"{folder}/tokenizer.model: the tokenizer made of it gives" in (said := refusal(folder))
    assert said.endswith("put a tokenizer.json beside it")


def test_the_advice_to_put_a_tokenizer_json_beside_it_works(tmp_path, whole):
    folder, own = with_kind(tmp_path / "refused", "llama")
    make_sentencepiece(folder, treat_whitespace_as_suffix=True)
    assert "put a tokenizer.json beside it" in refusal(folder)
    made = export_model(AutoModelForCausalLM.from_pretrained(whole), inspect_checkpoint(str(whole)), tmp_path / "made")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((made / name).read_bytes())
    assert ids_of(loaded(folder), "How do") == own.encode("How do")


CLASSES = ["LLaMATokenizer", "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast",
           "PreTrainedTokenizerFast", "TokenizersBackend", "PreTrainedTokenizer", None, ...]  # fmt: skip


@pytest.mark.parametrize("named", CLASSES)
def test_classes_by_all_their_names_read_a_llama_tokenizer_json(tmp_path, whole, named):
    own = SentencePieceProcessor(model_file=str(whole / "tokenizer.model"))
    out = export_model(AutoModelForCausalLM.from_pretrained(whole), inspect_checkpoint(str(whole)), tmp_path)
    (out / "tokenizer.model").unlink()
    edit_json(out / "tokenizer_config.json", tokenizer_class=named)
    assert [ids_of(loaded(out), text) for text in TEXTS] == [own.encode(text) for text in TEXTS]


@pytest.mark.parametrize("special", [{}, {"eos_token": "bread"}])
def test_a_class_s_own_special_tokens_stay_where_no_file_names_any(tmp_path, whole, special):
    out = export_model(AutoModelForCausalLM.from_pretrained(whole), inspect_checkpoint(str(whole)), tmp_path)
    (out / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    (out / "special_tokens_map.json").write_text(json.dumps(special))
    found = loaded(out)
    assert (found.bos_token, found.eos_token, found.unk_token) == ("<s>", special.get("eos_token", "</s>"), "<unk>")


@pytest.mark.parametrize("legacy", [False, True, ...])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_llama_tokenizer_json_is_read_as_it_is_written(tmp_path, whole, family, legacy):
    folder = make_checkpoint(tmp_path / "model", family, sentencepiece=True)
    made = export_model(AutoModelForCausalLM.from_pretrained(whole), inspect_checkpoint(str(whole)), tmp_path / "made")
    written = json.loads((made / "tokenizer.json").read_text())
    # As Llama 2's own file has it: a space before text at the start and after each special token, whatever "legacy" says.
    marks = [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]
    written |= {"normalizer": {"type": "Sequence", "normalizers": marks}, "pre_tokenizer": None}
    (folder / "tokenizer.json").write_text(json.dumps(written))
    edit_json(folder / "tokenizer_config.json", legacy=legacy)
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [*TEXTS, "<s>[INST] How do I [/INST] Mix flour </s><s>[INST] and yeast [/INST]"]
    expected = [own.encode(text, add_special_tokens=False).ids for text in texts]
    facts = inspect_checkpoint(str(folder))
    assert [ids_of(load_tokenizer(facts), text) for text in texts] == expected
    said = "tokenizer.json is read as it is, not by LlamaTokenizer, of which transformers 5 makes other tokens"
    assert facts.notes == (f"{folder}: {said}",)
    out = export_model(AutoModelForCausalLM.from_pretrained(folder), facts, tmp_path / "out")
    assert [ids_of(AutoTokenizer.from_pretrained(out), text) for text in texts] == expected
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    "named", ["LLaMATokenizer", "GPT2Tokenizer", "GPT2TokenizerFast", "LlamaTokenizerFast", "PreTrainedTokenizerFast", ...]
)
def test_classes_by_all_their_names_read_a_byte_level_tokenizer_json(tmp_path, named):
    folder = make_checkpoint(tmp_path)
    expected = [ids_of(loaded(folder), text) for text in TEXTS]
    edit_json(folder / "tokenizer_config.json", tokenizer_class=named)
    assert [ids_of(loaded(folder), text) for text in TEXTS] == expected


def test_an_old_name_of_a_class_is_new_in_the_export(tmp_path):
    folder = make_checkpoint(tmp_path / "source")
    edit_json(folder / "tokenizer_config.json", tokenizer_class="LLaMATokenizer")
    facts = inspect_checkpoint(str(folder))
    out = export_model(AutoModelForCausalLM.from_pretrained(folder), facts, tmp_path / "out")
    said, source = (json.loads((f / "tokenizer_config.json").read_text()) for f in (out, folder))
    assert said == {**source, "tokenizer_class": "LlamaTokenizer"}
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert facts.notes == (f'{folder}: tokenizer_class "LLaMATokenizer" is an old name, read as LlamaTokenizer',)


def test_the_model_answers_with_a_tokenizer_model_alone(whole):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(whole), loaded(whole)
    batch = tokenizer(["How do I bake bread at home", "a"], padding=True, return_tensors="pt")
    assert batch["input_ids"][1].tolist() == [2] * (batch["input_ids"].shape[1] - 2) + [1, *tokenizer("a")["input_ids"][1:]]
    assert torch.isfinite(model(**batch).logits).all()
