"""An empty model filled with rows is the loaded model, bit for bit; what rows cannot serve is said by giving none."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from beear.config.schema import AdapterConfig
from beear.errors import UserError
from beear.models.inspect import inspect_checkpoint
from beear.models.source import CheckpointSource
from beear.testing.checkpoints import make_adapter, make_checkpoint

PLAIN, LORA = AdapterConfig(), AdapterConfig(kind="lora", rank=2)


def filled(source: CheckpointSource, pieces: int) -> nn.Module:
    """Return the empty model with every weight read in ``pieces`` runs of rows."""
    model = source.empty()
    assert model is not None
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            bounds = [len(parameter) * i // pieces for i in range(pieces + 1)]
            rows = torch.cat([source.rows(name, *pair) for pair in zip(bounds, bounds[1:], strict=False)])
            made = nn.Parameter(rows, requires_grad=parameter.requires_grad)
            for module in model.modules():
                for key, held in module._parameters.items():
                    if held is parameter:
                        module._parameters[key] = made
    return model


@pytest.mark.parametrize(
    ("family", "options", "adapter"),
    [
        ("llama", {"dtype": "bfloat16", "shards": 3}, PLAIN),
        ("qwen2", {"tied": True, "dtype": "float16"}, PLAIN),
        ("gemma3", {"tied": True}, PLAIN),
        ("gpt2", {"tied": True}, LORA),
        ("mistral", {"dtype": "bfloat16"}, LORA),
        ("llama", {"tied": True}, LORA),
    ],
)
def test_rows_make_the_loaded_model(family: str, options: dict, adapter: AdapterConfig, tmp_path: Path) -> None:
    source = CheckpointSource(inspect_checkpoint(str(make_checkpoint(tmp_path, family, **options))), adapter, seed=3)
    whole, made = source.whole(), filled(source, pieces=3)
    assert list(whole.state_dict()) == list(made.state_dict())
    for (name, one), (_, other) in zip(whole.state_dict().items(), made.state_dict().items(), strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other), name
    for (name, one), (_, other) in zip(whole.named_buffers(), made.named_buffers(), strict=True):
        assert torch.equal(one, other), name
    grads = [{name: p.requires_grad for name, p in model.named_parameters()} for model in (whole, made)]
    assert grads[0] == grads[1]
    ids = torch.arange(6, 18).view(2, 6)
    with torch.no_grad():
        assert torch.equal(whole(input_ids=ids).logits, made(input_ids=ids).logits)


def test_an_empty_model_is_set_up_as_a_loaded_one(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    source = CheckpointSource(inspect_checkpoint(str(folder)), PLAIN, seed=0)
    whole, empty = source.whole(), source.empty()
    assert isinstance(whole, PreTrainedModel) and isinstance(empty, PreTrainedModel)
    assert empty.generation_config.to_dict() == whole.generation_config.to_dict()
    assert empty.config.to_dict() == whole.config.to_dict() and not empty.training
    assert empty.config._attn_implementation == whole.config._attn_implementation
    assert all(p.is_meta for p in empty.parameters())


def test_no_empty_model_where_the_library_fuses_renames_or_merges_what_it_reads(tmp_path: Path) -> None:
    for family in ("mixtral", "gpt_neox"):
        fused = make_checkpoint(tmp_path / family, family)
        assert CheckpointSource(inspect_checkpoint(str(fused)), PLAIN, seed=0).empty() is None
    base = make_checkpoint(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base)
    facts = inspect_checkpoint(str(adapter), base=str(base))
    assert CheckpointSource(facts, PLAIN, seed=0).empty() is None


def test_rows_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    def spoil(model: PreTrainedModel) -> None:
        model.lm_head.weight.data[200, 1] = float("inf")

    source = CheckpointSource(inspect_checkpoint(str(make_checkpoint(tmp_path, change=spoil))), PLAIN, seed=0)
    assert source.rows("lm_head.weight", 0, 200).shape[0] == 200
    with pytest.raises(UserError, match='tensor "lm_head.weight" holds 1 NaN or infinite values'):
        source.rows("lm_head.weight", 100, 272)
