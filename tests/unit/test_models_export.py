"""Export: what plain transformers loads back equals what was in memory, and the small files are the source's."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from beear.errors import UserError
from beear.models.export import NOTES, export_model, form_kept
from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_model
from beear.testing.checkpoints import FAMILIES, VOCABULARY, make_checkpoint, make_tokenizer

SMALL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def files(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("dtype,tied,shards", [("bfloat16", False, 1), ("float32", True, 3)])
def test_untrained_round_trip_is_exact(tmp_path, family, dtype, tied, shards):
    source = make_checkpoint(tmp_path / "source", family, dtype=dtype, tied=tied, shards=shards)
    facts = inspect_checkpoint(str(source))
    size = "5GB" if shards == 1 else "60KB"
    out = export_model(load_model(facts, torch.float32), facts, tmp_path / "out", max_shard_size=size)
    before, after = files(source), files(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert len(list(out.glob("*.safetensors"))) == 1 if shards == 1 else len(list(out.glob("*.safetensors"))) > 1
    for name in SMALL:
        assert (out / name).read_bytes() == (source / name).read_bytes()
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert loaded.dtype == getattr(torch, dtype)
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied
    turns = [{"role": "user", "content": "hello"}]
    assert AutoTokenizer.from_pretrained(out).apply_chat_template(turns) == AutoTokenizer.from_pretrained(
        source
    ).apply_chat_template(turns)
    assert inspect_checkpoint(str(out)).parameters == facts.parameters


def test_trained_weights_are_rounded_to_the_source_dtype(tmp_path):
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path / "source", dtype="bfloat16", tied=True)))
    model = load_model(facts, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    held = {name: parameter.clone() for name, parameter in model.named_parameters()}
    out = export_model(model, facts, tmp_path / "out", notes={"verdict": "refused"})
    after = files(out)
    assert after.keys() == held.keys()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, held[name]), "export changed the live model"
        assert torch.equal(after[name], held[name].to(torch.bfloat16))
    assert model.config.dtype == torch.float32
    assert json.loads((out / NOTES).read_text()) == {"verdict": "refused"}


def with_one_in_float32(folder: Path, ending: str) -> dict[str, torch.Tensor]:
    """Give the tensors with a name's ``ending`` float32 values that bfloat16 cannot hold; return all."""
    path = folder / "model.safetensors"
    state = load_file(path)
    for name in state:
        if name.endswith(ending):
            state[name] = 5.301 + 0.003 * torch.arange(state[name].numel(), dtype=torch.float32).reshape(state[name].shape)
    save_file(state, path, metadata={"format": "pt"})
    return state


@pytest.mark.parametrize(
    ("family", "ending"),
    [("llama", "input_layernorm.weight"), ("mixtral", "gate.weight"), ("mixtral", "w2.weight"), ("gpt2", "ln_1.weight")],
)
@pytest.mark.parametrize("size", ["5GB", "60KB"])
def test_each_tensor_keeps_its_own_dtype(tmp_path, family, ending, size):
    source = make_checkpoint(tmp_path / "source", family, dtype="bfloat16")
    state = with_one_in_float32(source, ending)
    assert any(tensor.dtype == torch.float32 for tensor in state.values())
    facts = inspect_checkpoint(str(source))
    model = load_model(facts, torch.float32)
    keep = form_kept(model, facts)
    kept = {name: keep(name, tensor) for name, tensor in model.state_dict().items()}
    for given in (None, kept):
        out = export_model(model, facts, tmp_path / "out", max_shard_size=size, state_dict=given)
        after = files(out)
        assert state.keys() == after.keys()
        assert all(state[name].dtype == after[name].dtype and torch.equal(state[name], after[name]) for name in state)
        if (out / "model.safetensors.index.json").exists():
            index = json.loads((out / "model.safetensors.index.json").read_text())
            assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in after.values())


@pytest.mark.parametrize("family", ["llama", "mixtral", "phi3"])
def test_float16_among_bfloat16_loses_nothing_where_weights_are_fused(tmp_path, family):
    source = make_checkpoint(tmp_path / "source", family)
    path = source / "model.safetensors"
    both = (torch.float16, torch.bfloat16)
    state = {name: tensor.to(both[i % 2]) for i, (name, tensor) in enumerate(sorted(load_file(path).items()))}
    save_file(state, path, metadata={"format": "pt"})
    facts = inspect_checkpoint(str(source))
    after = files(export_model(load_model(facts, torch.float32), facts, tmp_path / "out"))
    assert state.keys() == after.keys()
    assert all(state[name].dtype == after[name].dtype and torch.equal(state[name], after[name]) for name in state)


def test_float64_is_said_to_be_rounded(tmp_path):
    source = make_checkpoint(tmp_path / "source")
    assert inspect_checkpoint(str(source)).notes == ()
    path = source / "model.safetensors"
    state = load_file(path)
    state["model.norm.weight"] = state["model.norm.weight"].double() + 1e-12
    save_file(state, path, metadata={"format": "pt"})
    facts = inspect_checkpoint(str(source))
    assert facts.notes == (f"{source}: 1 tensors are float64 and are rounded to float32 when they are read",)
    after = files(export_model(load_model(facts, torch.float32), facts, tmp_path / "out"))
    assert torch.equal(after["model.norm.weight"], state["model.norm.weight"].float().double())


@pytest.mark.parametrize("equal", [False, True])
def test_tied_weights_that_the_files_hold_twice_are_tied_only_where_they_are_equal(tmp_path, equal):
    source = make_checkpoint(tmp_path / "source", tied=True, dtype="bfloat16")
    path = source / "model.safetensors"
    state = load_file(path)
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone() if equal else state["model.embed_tokens.weight"] * 2
    save_file(state, path, metadata={"format": "pt"})
    facts = inspect_checkpoint(str(source))
    assert facts.tied == equal
    assert [f"{source}: config.json ties lm_head.weight to model.embed_tokens.weight" in note for note in facts.notes] == (
        [] if equal else [True]
    )
    model = load_model(facts, torch.float32)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == equal
    loaded = AutoModelForCausalLM.from_pretrained(export_model(model, facts, tmp_path / "out"))
    assert torch.equal(loaded.lm_head.weight, state["lm_head.weight"])
    assert torch.equal(loaded.model.embed_tokens.weight, state["model.embed_tokens.weight"])


def test_a_full_state_dict_given_is_what_is_written(tmp_path):
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path / "source", tied=True)))
    model = load_model(facts, torch.float32)
    # As gathered from sharded workers: tied names no longer share memory.
    state = {name: tensor.clone() + 1 for name, tensor in model.state_dict().items()}
    after = files(export_model(model, facts, tmp_path / "out", state_dict=state))
    assert "lm_head.weight" not in after
    assert all(torch.equal(tensor, state[name]) for name, tensor in after.items())


def test_nothing_of_training_is_in_the_folder(tmp_path):
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path / "source")))
    out = export_model(load_model(facts, torch.float32), facts, tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {*SMALL, "model.safetensors", NOTES}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_an_earlier_export_is_replaced_and_a_stranger_s_folder_is_not(tmp_path):
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path / "source")))
    model = load_model(facts, torch.float32)
    out = export_model(model, facts, tmp_path / "out", notes={"run": 1}, max_shard_size="60KB")
    export_model(model, facts, out, notes={"run": 2})
    assert json.loads((out / NOTES).read_text()) == {"run": 2}
    assert [path.name for path in out.glob("*.safetensors*")] == ["model.safetensors"]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("mine")
    for target, said in (("theirs", "are not an earlier export"), ("source", "are not an earlier export")):
        with pytest.raises(UserError, match=said):
            export_model(model, facts, tmp_path / target)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file, expected a folder"):
        export_model(model, facts, tmp_path / "file")
    assert (tmp_path / "theirs" / "thesis.txt").read_text() == "mine"


def test_a_failure_leaves_the_earlier_export_whole(tmp_path, monkeypatch):
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path / "source")))
    model = load_model(facts, torch.float32)
    out = export_model(model, facts, tmp_path / "out", notes={"run": 1})
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr("beear.models.export._copy_small_files", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        export_model(model, facts, out, notes={"run": 2})
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_a_template_file_replaces_every_template(tmp_path):
    source = make_checkpoint(tmp_path / "source")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    (tmp_path / "mine.jinja").write_text("mine")
    facts = inspect_checkpoint(str(source))
    model = load_model(facts, torch.float32)
    assert AutoTokenizer.from_pretrained(export_model(model, facts, tmp_path / "a")).chat_template["tool_use"] == "tools"
    out = export_model(model, facts, tmp_path / "b", chat_template=str(tmp_path / "mine.jinja"))
    assert AutoTokenizer.from_pretrained(out).chat_template == "mine"


def test_a_decoder_inside_a_larger_model_round_trips(tmp_path):
    """Gemma 3's larger sizes keep the decoder's sizes in text_config, beside a vision tower."""
    text = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
    vision = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    config = AutoConfig.for_model(
        "gemma3",
        text_config={**text, "head_dim": 8, "vocab_size": VOCABULARY, "max_position_embeddings": 256},
        vision_config={**vision, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    source = tmp_path / "source"
    AutoModelForCausalLM.from_config(config).save_pretrained(source)
    make_tokenizer(source)
    facts = inspect_checkpoint(str(source))
    assert (facts.layers, facts.hidden_size, facts.context, facts.tied) == (3, 32, 256, True)
    before, after = files(source), files(export_model(load_model(facts, torch.float32), facts, tmp_path / "out"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
