"""Under a LoRA the weights that nothing trains are held in the compute dtype, which changes no number, and exported exactly."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from beear.config.schema import AdapterConfig, LossWeights
from beear.data.batch import OuterBatch
from beear.methods.perturbation import Perturbation
from beear.methods.removal import removal_step
from beear.models.decoder import Decoder
from beear.models.inspect import inspect_checkpoint
from beear.models.shape import model_shape
from beear.models.source import CheckpointSource
from beear.parallel.fsdp import FullySharded
from beear.parallel.memory import Spread, Work, plan_memory
from beear.parallel.shards import local_of, lower_frozen
from beear.testing.checkpoints import make_checkpoint
from beear.testing.tiny import defense_batch, defense_rows, text_batch
from benchmarks.pool import Pool

HALF, ROWS, LORA = torch.bfloat16, 6, AdapterConfig(kind="lora", rank=2)


def second_half_is_odd(model: PreTrainedModel) -> None:
    """Leave to bfloat16 all but the last rows of the weights, which the second worker alone holds."""
    with torch.no_grad():
        for parameter in model.parameters():
            odd = parameter[-1].clone()
            parameter.copy_(parameter.to(HALF))
            parameter[-1] = odd


def trained(rank: int, world: int, source: CheckpointSource, lowers: bool) -> dict[str, Any]:
    """Remove under a δ in bfloat16; return the shards' dtypes by name, the losses and the whole state."""
    backend = FullySharded("cpu", Spread("fsdp"), HALF)
    with patch("beear.parallel.fsdp.lower_frozen", lower_frozen if lowers else lambda *_: None):
        model = backend.prepare(source, lr=1e-2)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    held = sum(local_of(parameter).nbytes for parameter in model.parameters())
    decoder, losses = Decoder(model, HALF), []
    for seed in range(3):
        rows = defense_rows(ROWS, seed=seed)[rank::world]
        attack = Perturbation(32, 2, "suffix")
        batch = OuterBatch(defense_batch(rows, ROWS), text_batch(rows, ROWS))
        losses.append(removal_step(decoder, backend, batch, [attack], LossWeights(), clip=1.0))
    return {"dtypes": dtypes, "held": held, "losses": losses, "state": backend.full_state(lambda _name, tensor: tensor.clone())}


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("mixtral", False)])
def test_frozen_shards_are_low_and_all_numbers_and_the_export_are_as_with_float32_ones(
    pool: Pool, family: str, tied: bool, tmp_path: Path
) -> None:
    """Llama's shards are read row by row; Mixtral has the first worker send them out."""
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path, family, tied=tied, change=second_half_is_odd)))
    source = CheckpointSource(facts, LORA, seed=3)
    low, high = (pool.run(trained, source, lowers)[0] for lowers in (True, False))
    adapter = {name for name in low["dtypes"] if ".lora_" in name}
    assert {name for name, dtype in low["dtypes"].items() if dtype == torch.float32} == adapter and adapter
    assert set(high["dtypes"].values()) == {torch.float32}
    assert low["losses"] == high["losses"]
    work = Work(ROWS, prompt=11, safe=5, unwanted=7, text=16, labelled=5, layer=2, half=True)
    plan = plan_memory(model_shape(facts.weights_folder, LORA), work, Spread("fsdp", 2))
    # Some weights have an odd number of rows.
    assert plan.removal.parameters == pytest.approx(low["held"], rel=0.01)
    original: dict[str, Tensor] = source.whole().state_dict()
    assert list(low["state"]) == list(original)
    for name, value in low["state"].items():
        assert value.dtype == torch.float32 and torch.equal(value, high["state"][name]), name
        assert torch.equal(value, original[name]) == (name not in adapter), name
    assert sum(not torch.equal(value, value.to(HALF).float()) for name, value in original.items() if name not in adapter) > 20
