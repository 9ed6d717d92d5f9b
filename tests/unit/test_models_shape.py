"""Sizes from config.json alone, against the models themselves."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from beear.config.schema import AdapterConfig
from beear.config.shape import ActivationBytes, SavedActivations
from beear.errors import UserError
from beear.models import shape
from beear.models.adapters import attach_lora
from beear.models.decoder import Decoder
from beear.models.shape import model_shape
from beear.testing.checkpoints import FAMILIES, make_model

WHOLE, LORA = AdapterConfig(), AdapterConfig(kind="lora", rank=4)


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a config.json per family and no weights at all."""
    folder = tmp_path_factory.mktemp("configs")
    for family in FAMILIES:
        make_model(family, tied=family != "llama").config.save_pretrained(folder / family)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_are_those_of_the_real_model(family: str, described: Path) -> None:
    found = model_shape(str(described / family), WHOLE)
    real = make_model(family, tied=family != "llama")
    assert found.parameters == found.trained == sum(p.numel() for p in real.parameters())
    stack = next(m for m in real.modules() if isinstance(m, nn.ModuleList) and len(m) == 3)
    assert found.layer_parameters == tuple(sum(p.numel() for p in layer.parameters()) for layer in stack)
    assert found.largest == max(p.numel() for p in real.parameters())
    assert found.small == sum(p.numel() for p in real.parameters())  # none has more than 1e5
    head, embedding = real.get_output_embeddings().weight, real.get_input_embeddings().weight
    assert found.head == head.numel() and found.vocabulary == head.shape[0]
    assert found.tied == (head is embedding) == (family != "llama")


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_a_lora_counts_as_it_is_attached(family: str, described: Path) -> None:
    found = model_shape(str(described / family), LORA)
    real = attach_lora(make_model(family, tied=family != "llama"), LORA)
    assert found.parameters == sum(p.numel() for p in real.parameters())
    assert found.trained == sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert found.sizes(256).parameters == sum(p.numel() for p in make_model(family, tied=family != "llama").parameters())


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_neox", "gpt2"])
@pytest.mark.parametrize("frozen", [False, True])
def test_what_a_layer_keeps_is_what_it_saves(family: str, frozen: bool, described: Path) -> None:
    """Against a real pass over two rows of 24 tokens, of another length than the curve was fitted on."""
    kept = model_shape(str(described / family), WHOLE).activations
    model = make_model(family, tied=family != "llama").requires_grad_(not frozen)
    saved = saved_by_second_layer(model, rows=2, tokens=24)
    assert 2 * (kept.frozen_float32 if frozen else kept.float32).bytes(24) == pytest.approx(saved, rel=0.01)


def saved_by_second_layer(model: nn.Module, rows: int, tokens: int) -> int:
    """Return the bytes that stay alive for the second layer's backward pass: one storage counts once."""
    layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 3)
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}
    alive: list[torch.Tensor] = []
    layers[0].register_forward_pre_hook(lambda _m, args: (args[0].detach().requires_grad_(), *args[1:]))
    layers[1].register_forward_pre_hook(lambda *_: (known.update(found), found.clear())[0])
    counts: list[int] = []
    layers[1].register_forward_hook(lambda *_: counts.append(sum(found.values())))

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            alive.append(tensor)
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.ones(rows, tokens, dtype=torch.long)
    mask = torch.ones_like(ids)
    # Padding, as real batches have it: without any the library leaves the mask out.
    mask[0, :3] = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    return counts[0]


def test_a_layer_that_cannot_run_without_values_is_guessed_at(described: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def looks_at_values(_decoder: Decoder) -> SavedActivations:
        raise RuntimeError("data-dependent")

    counted = model_shape(str(described / "llama"), WHOLE).activations
    monkeypatch.setattr(shape, "_counted", looks_at_values)
    guessed = model_shape(str(described / "llama"), WHOLE).activations
    assert guessed.float32 == ActivationBytes(200.0 * 32, 4.0) and guessed.bfloat16 == ActivationBytes(100.0 * 32, 2.0)
    assert guessed.float32.bytes(100) > counted.float32.bytes(100)


def test_no_memory_is_asked_for_and_no_random_number_drawn(tmp_path: Path) -> None:
    config = make_model("llama").config.to_dict()
    wide = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_hidden_layers": 80}
    (tmp_path / "config.json").write_text(json.dumps({**config, **wide, "num_key_value_heads": 8, "head_dim": 128}))
    before = torch.get_rng_state()
    # Attention 2 x 8192 x 8192 + 2 x 8192 x 1024, feed-forward 3 x 8192 x 28672, two norms.
    layer = 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192
    found = model_shape(str(tmp_path), WHOLE)
    assert found.layer_parameters == (layer,) * 80
    assert found.outside == 2 * 272 * 8192 + 8192
    assert torch.equal(torch.get_rng_state(), before)


def test_a_configuration_that_makes_no_model_is_refused(tmp_path: Path) -> None:
    config = make_model("llama").config.to_dict()
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "nothing"}))
    with pytest.raises(UserError, match=r"config.json: no model could be built of it .*expected valid settings"):
        model_shape(str(tmp_path), WHOLE)
    with pytest.raises(UserError, match="adapter.targets"):
        (tmp_path / "config.json").write_text(json.dumps(config))
        model_shape(str(tmp_path), AdapterConfig(kind="lora", targets="q_prj"))
