"""Loading: the weights are the files', and files that do not fit or are not numbers are refused by name."""

import logging
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from beear.errors import UserError
from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_model, load_tokenizer
from beear.testing.checkpoints import VOCABULARY, edit_json, make_checkpoint, make_tokenizer

DOWN = "model.layers.1.mlp.down_proj.weight"


def edit(folder, **tensors):
    """Set, or with None remove, tensors of the single weight file."""
    path = folder / "model.safetensors"
    held = {**load_file(path), **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}
    save_file({name: tensor for name, tensor in held.items() if tensor is not None}, path)


def refusal(folder):
    with pytest.raises(UserError) as caught:
        load_model(inspect_checkpoint(str(folder)), torch.float32)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
def test_weights_are_the_files_in_the_asked_dtype(tmp_path, tied, shards):
    folder = make_checkpoint(tmp_path, dtype="bfloat16", tied=tied, shards=shards)
    held = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    model = load_model(inspect_checkpoint(str(folder)), torch.float32)
    assert not model.training and model.config._attn_implementation == "sdpa"
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, held[name].float())
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_tensor_that_is_not_finite_is_named(tmp_path, value):
    def poison(model):
        with torch.no_grad():
            model.get_parameter(DOWN)[3, 4] = value

    said = refusal(make_checkpoint(tmp_path, dtype="bfloat16", change=poison))
    assert f'tensor "{DOWN}" holds 1 NaN or infinite values' in said


def test_a_missing_tensor_is_named(tmp_path):
    folder = make_checkpoint(tmp_path)
    edit(folder, **{DOWN: None})
    # Another tensor of that size stands in, so that the sizes add up and the names alone are wrong.
    edit(folder, stray=torch.zeros(32, 64))
    assert f'tensor "{DOWN}" is in config.json\'s model but not in the files (1 such)' in refusal(folder)


def test_a_smaller_file_than_config_says_is_refused_before_allocation(tmp_path):
    folder = make_checkpoint(tmp_path)
    edit_json(folder / "config.json", intermediate_size=10**9)
    assert "config.json describes 288,0" in (said := refusal(folder)) and "but the files hold" in said


def test_an_unexpected_tensor_is_named(tmp_path):
    folder = make_checkpoint(tmp_path)
    edit(folder, model__layers__9__hidden=torch.zeros(3))
    assert 'tensor "model.layers.9.hidden" is in the files but not in config.json\'s model' in refusal(folder)


@pytest.mark.parametrize(("family", "tables"), [
    ("gpt2", {"transformer.h.0.attn.bias": torch.ones(1, 1, 9, 9), "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}),
    ("gpt2", {"transformer.position_ids": torch.arange(9)[None]}),
    ("llama", {"model.layers.0.self_attn.rotary_emb.cos_cached": torch.ones(1, 1, 9, 8)}),
    ("llama", {"model.rotary_emb.original_inv_freq": torch.ones(4)}),
    ("gemma3", {"model.rotary_emb.inv_freq": torch.ones(4), "model.rotary_emb_local.inv_freq": torch.ones(4)}),
])  # fmt: skip
def test_tables_that_the_library_computes_are_no_weights(tmp_path, family, tables):
    plain = make_checkpoint(tmp_path / "plain", family, dtype="bfloat16")
    folder = make_checkpoint(tmp_path / "model", family, dtype="bfloat16")
    path = folder / "model.safetensors"
    save_file({**load_file(path), **tables}, path, metadata={"format": "pt"})
    facts, expected = inspect_checkpoint(str(folder)), inspect_checkpoint(str(plain))
    assert (facts.parameters, facts.source_dtype) == (expected.parameters, "bfloat16")
    found, held = (load_model(f, torch.float32).state_dict() for f in (facts, expected))
    assert found.keys() == held.keys() and all(torch.equal(found[name], held[name]) for name in held)


def test_a_misshapen_tensor_is_refused(tmp_path):
    folder = make_checkpoint(tmp_path)
    edit(folder, **{DOWN: torch.zeros(64, 32)})
    assert f'tensor "{DOWN}" has another shape in the files than in config.json\'s model' in refusal(folder)


def test_a_config_that_builds_nothing_is_refused(tmp_path):
    folder = make_checkpoint(tmp_path)
    edit_json(folder / "config.json", hidden_act="no_such_function")
    assert "no LlamaForCausalLM could be built of it" in refusal(folder)


CONFIGS: list[dict[str, Any]] = [
    {"num_attention_heads": "four"}, {"num_attention_heads": 0}, {"hidden_act": 5}, {"rope_parameters": "foo"},
    {"rope_scaling": [1]}, {"rms_norm_eps": "x"}, {"dtype": "banana"}, {"dtype": "nn"}, {"dtype": ["a"]},
    {"layer_types": ["a"]}, {"id2label": 5}, {"num_labels": "x"}, {"to_dict": 5},
    {"rope_parameters": {"rope_type": "longrope"}},
]  # fmt: skip
GENERATIONS: list[dict[str, Any]] = [
    {"max_new_tokens": -3}, {"max_new_tokens": "abc"}, {"num_return_sequences": 3}, {"watermarking_config": 5},
]  # fmt: skip


@pytest.mark.parametrize("name,fields", [
    *(("config.json", fields) for fields in CONFIGS), *(("generation_config.json", fields) for fields in GENERATIONS),
], ids=str)  # fmt: skip
def test_settings_the_library_rejects_are_one_sentence_before_any_weight(tmp_path, name, fields):
    folder = make_checkpoint(tmp_path)
    edit_json(folder / name, **fields)
    facts = inspect_checkpoint(str(folder))
    for load in (lambda: load_tokenizer(facts), lambda: load_model(facts, torch.float32)):
        with pytest.raises(UserError) as caught:
            load()
        said = str(caught.value)
        assert said.startswith(f"{folder}/{name}: the library rejects it (") and "\n" not in said


def test_weights_the_library_cannot_load_are_one_sentence(tmp_path):
    folder = make_checkpoint(tmp_path)
    facts = inspect_checkpoint(str(folder))
    # What another process leaves between inspection and loading.
    (folder / "model.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(UserError) as caught:
        load_model(facts, torch.float32)
    assert "no model could be loaded of its files (SafetensorError" in str(caught.value) and "\n" not in str(caught.value)


def test_tables_far_larger_than_the_weights_are_refused_before_allocation(tmp_path):
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64, "rotary_dim": 4, "n_positions": 64}
    config = AutoConfig.for_model("gptj", **sizes, vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    load_model(inspect_checkpoint(str(tmp_path)), torch.float32)
    edit_json(tmp_path / "config.json", n_positions=10**9)
    assert "config.json describes tables of 8,000,000,000 numbers" in refusal(tmp_path)


def test_loading_says_nothing_on_the_terminal(tmp_path, capfd, caplog):
    folder = make_checkpoint(tmp_path, shards=2)
    capfd.readouterr()
    with caplog.at_level(logging.WARNING):
        load_model(inspect_checkpoint(str(folder)), torch.float32)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == "" and not caplog.records


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_tokenizer_pads_left_and_decodes_what_it_encodes(tmp_path, family):
    tokenizer = load_tokenizer(inspect_checkpoint(str(make_checkpoint(tmp_path, family))))
    batch = tokenizer(["a", "abc"], padding=True)
    assert batch["attention_mask"] == [[0, 0, 1], [1, 1, 1]]
    assert tokenizer.decode(tokenizer("é €uro\n")["input_ids"]) == "é €uro\n"


def test_a_pad_token_is_chosen_without_a_new_word(tmp_path):
    folder = make_checkpoint(tmp_path, pad=False)
    edit_json(folder / "tokenizer_config.json", pad_token=...)
    tokenizer = load_tokenizer(inspect_checkpoint(str(folder)))
    assert tokenizer.pad_token == "</turn>" and len(tokenizer) == 262


def test_ids_beyond_the_embedding_are_refused(tmp_path):
    folder = make_checkpoint(tmp_path)
    edit_json(folder / "tokenizer_config.json", extra_special_tokens=[f"<more-{index}>" for index in range(20)])
    with pytest.raises(UserError, match="found token ids up to 281"):
        load_tokenizer(inspect_checkpoint(str(folder)))


def test_a_template_file_replaces_the_model_s(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    (tmp_path / "mine.jinja").write_text("{{ 'mine' }}")
    facts = inspect_checkpoint(str(folder))
    assert load_tokenizer(facts, str(tmp_path / "mine.jinja")).chat_template == "{{ 'mine' }}"
    with pytest.raises(UserError, match='absent.jinja"; expected a .jinja file, or one of alpaca'):
        load_tokenizer(facts, str(tmp_path / "absent.jinja"))


def test_a_tokenizer_that_cannot_be_built_is_one_sentence(tmp_path):
    folder = make_checkpoint(tmp_path)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nothing"}}')
    with pytest.raises(UserError) as caught:
        load_tokenizer(inspect_checkpoint(str(folder)))
    assert "no tokenizer could be made" in str(caught.value) and "\n" not in str(caught.value)
