"""GGUF files by the conversion command, against the weights that they were written from."""

import json
import shlex
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from beear.errors import UserError
from beear.models.convert.__main__ import main
from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_model, load_tokenizer

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
# As byte-level vocabularies write bytes: printable ones as themselves.
LETTERS = [chr(code) for code in range(ord("!"), ord("~") + 1)] + ["Ġ"]
TOKENS = ["<unk>", "<s>", "</s>", *LETTERS, "ab", "abc"]
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
OTHERS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, rms_norm_eps=1e-5, rope_theta=10000.0,
        bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def paired(rows: np.ndarray, heads: int) -> np.ndarray:
    """Put a head's two halves in turn, as that format rotates them."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def written(path: Path, model: LlamaForCausalLM, kind: Any = None, more: bool = False) -> Path:
    """Write a llama with a byte-level tokenizer; matrices are quantised to ``kind``; ``more`` adds what transformers ignores."""
    path.parent.mkdir(exist_ok=True)
    out = gguf.GGUFWriter(path, "llama")
    out.add_name("tiny")
    config = model.config
    out.add_context_length(128)
    out.add_embedding_length(32)
    out.add_block_count(2)
    out.add_feed_forward_length(64)
    out.add_head_count(4)
    out.add_head_count_kv(2)
    out.add_rope_dimension_count(8)
    out.add_rope_freq_base(10000.0)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(config.vocab_size)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("llama-bpe")
    out.add_token_list(TOKENS)
    out.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    out.add_token_merges(["a b", "ab c"])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    out.add_chat_template(TEMPLATE)
    if more:
        out.add_rope_scaling_factor(8.0)
        out.add_tensor("rope_freqs.weight", np.ones(4, dtype=np.float32))
    for name, tensor in model.state_dict().items():
        parts = name.removesuffix(".weight").split(".", 3)
        given = OTHERS.get(name.removesuffix(".weight")) or f"blk.{parts[2]}.{NAMES[parts[3]]}"
        rows = tensor.float().numpy()
        if given.endswith(("attn_q", "attn_k")):
            rows = paired(rows, 4 if given.endswith("q") else 2)
        if kind is not None and rows.ndim == 2:
            out.add_tensor(f"{given}.weight", gguf.quants.quantize(rows, kind), raw_dtype=kind)
        else:
            out.add_tensor(f"{given}.weight", rows.copy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def test_the_same_model_and_a_tokenizer_come_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, folder = llama(), tmp_path / "model"
    written(folder / "tiny.gguf", model)
    (folder / "README.md").write_text("read me")
    with pytest.raises(UserError, match="found weights only as tiny.gguf") as caught:
        inspect_checkpoint(str(folder))
    command = shlex.split(str(caught.value).partition("process of their own: ")[2])
    assert main(command[3:]) == 0
    out = Path(command[-1])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "tiny.gguf -> dequantised to float32, with the tokenizer that the library makes of the file"
    # A class of transformers brings a token of its own, for which the model has no embedding.
    added = "took out of the tokenizer what transformers adds to the file's vocabulary (1): <|endoftext|>"
    assert said[1] == f"tiny.gguf: {added}"
    assert said[3:] == ["left out: README.md", f"wrote {out}"]
    found = load_file(out / "model.safetensors")
    expected = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    record = json.loads((out / "conversion.json").read_text())
    assert record["dequantised_to"] == "float32" and set(record["sources"]) == {"tiny.gguf"}
    facts = inspect_checkpoint(str(out))
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        assert torch.equal(load_model(facts, torch.float32)(ids).logits, model(ids).logits)
    tokenizer = load_tokenizer(facts)
    encoded = tokenizer("abc b", add_special_tokens=False)["input_ids"]
    assert [TOKENS[i] for i in encoded] == ["abc", "Ġ", "b"]
    assert len(tokenizer) == len(TOKENS)
    assert (tokenizer.bos_token, tokenizer.eos_token, facts.chat_template) == ("<s>", "</s>", TEMPLATE)


def test_quantised_weights_are_unpacked_to_the_dtype_asked_for(tmp_path: Path) -> None:
    model, kind = llama(), gguf.GGMLQuantizationType.Q8_0
    written(tmp_path / "model" / "tiny.gguf", model, kind)
    assert main([str(tmp_path / "model"), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    for name, tensor in model.state_dict().items():
        rows = tensor.float().numpy()
        unpacked = gguf.quants.dequantize(gguf.quants.quantize(rows, kind), kind) if rows.ndim == 2 else rows
        assert torch.equal(found[name], torch.from_numpy(np.array(unpacked)).bfloat16()), name
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["dequantised_to"] == "bfloat16"
    (one,) = inspect_checkpoint(str(tmp_path / "out")).conversions
    assert one.dequantised_to == "bfloat16"


def test_what_the_library_passes_over_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "model" / "tiny.gguf", llama(), more=True)
    assert main([str(tmp_path / "model"), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "tiny.gguf: 1 tensors that transformers does not use: rope_freqs.weight" in said
    assert "tiny.gguf: 1 settings that transformers does not use: llama.rope.scaling.factor" in said
    assert len(json.loads((tmp_path / "out" / "conversion.json").read_text())["notes"]) == 3


def test_what_is_no_gguf_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    whole = written(folder / "tiny.gguf", llama()).read_bytes()
    for held in (b"no such thing" * 9, whole[: len(whole) // 2]):
        (folder / "tiny.gguf").write_bytes(held)
        assert main([str(folder), str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {folder}/tiny.gguf: no model could be made of it") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_without_the_package_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "model" / "tiny.gguf", llama())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main([str(tmp_path / "model"), str(tmp_path / "out")]) == 2
    assert "GGUF weights are read with the package gguf (the extra gguf), expected it installed" in capsys.readouterr().err
