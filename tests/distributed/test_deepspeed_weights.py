"""Weights and checkpoints under DeepSpeed's ZeRO: read in parts, exact in float32, for any number of workers."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from beear.errors import UserError
from beear.parallel import zero_engine
from beear.parallel.base import Whole
from beear.parallel.zero_state import own_part
from benchmarks.pool import Pool
from tests.distributed.zero import backend_of, descend, furthest, model_of, whole

LR = 1e-3


@pytest.fixture(autouse=True, scope="module")
def alone_again() -> Iterator[None]:
    """Leave no process group of one worker behind; until then DeepSpeed holds on to it."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@dataclass
class Rows:
    """A source that serves rows, and knows how many elements were asked for at most and in all."""

    model: nn.Module
    broken: str = ""
    most: int = 0
    read: int = 0

    def whole(self) -> nn.Module:
        raise AssertionError("the whole model is never asked for")

    def empty(self) -> nn.Module:
        self.weights = {name: p.detach() for name, p in self.model.named_parameters()}
        empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in self.model.parameters()}
        return copy.deepcopy(self.model, empty)  # type: ignore[arg-type]

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        if name == self.broken:
            raise UserError(f"{name}: found NaN")
        part = self.weights[name][start:stop]
        self.most, self.read = max(self.most, part.numel()), self.read + part.numel()
        return part


def read_in_parts(rank: int, world: int, tied: bool) -> Any:
    """Load from rows and train two steps."""
    backend, source = backend_of("deepspeed", world, 3), Rows(model_of(tied))
    model = backend.prepare(source, LR)
    held = sum(p.ds_tensor.numel() for p in model.parameters())  # type: ignore[attr-defined]
    before = whole(backend)
    descend(backend, model, range(2))
    return before, whole(backend), source.read, held


@pytest.mark.parametrize("tied", [True, False])
def test_stage_3_reads_each_weight_once_and_keeps_its_half(pool: Pool, tied: bool) -> None:
    model = model_of(tied)
    count = sum(p.numel() for p in model.parameters())
    first, second = pool.run(read_in_parts, tied)
    assert (first[2], second[2]) == (count, 0)
    assert first[3] == second[3] == count / 2
    assert furthest(first[0], model.state_dict()) == 0
    alone = backend_of("single", 1, 0)
    descend(alone, alone.prepare(Whole(model), LR), range(2))
    assert furthest(first[1], model.state_dict()) <= 1e-5


def read_broken(rank: int, world: int) -> str:
    """Load from a source with a weight that is not finite."""
    try:
        backend_of("deepspeed", world, 3).prepare(Rows(model_of(), broken="model.layers.1.mlp.up_proj.weight"), LR)
    except UserError as error:
        return str(error)
    return "nothing was raised"


def test_a_weight_that_cannot_be_read_is_told_by_every_worker(pool: Pool) -> None:
    assert pool.run(read_broken) == ["model.layers.1.mlp.up_proj.weight: found NaN"] * 2


def lowered(rank: int, world: int, stage: int, lora: bool) -> Any:
    """Compute in bfloat16: the weights before and after one small step, and the dtype of what is computed with."""
    backend = backend_of("deepspeed", world, stage, compute=torch.bfloat16)
    model = backend.prepare(Whole(model_of(lora=lora)), 1e-6)
    before, dtype = whole(backend), next(model.parameters()).dtype
    descend(backend, model, range(1))
    return before, whole(backend), dtype


@pytest.mark.parametrize(("stage", "lora"), [(1, False), (2, True), (3, True), (3, False)])
def test_master_weights_are_float32_and_exact(pool: Pool, stage: int, lora: bool) -> None:
    """bfloat16 keeps 8 bits: neither the weights nor a step of 1e-6 would come through it."""
    (before, after, dtype), _ = pool.run(lowered, stage, lora)
    model = model_of(lora=lora)
    assert dtype == torch.bfloat16
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value), name
        moved = (after[name] - value).abs().max()
        # The first step of Adam moves a weight by the learning rate; B of a LoRA is zero, so that A has no gradient yet.
        moves = not lora or "lora_B" in name
        assert float(moved) == pytest.approx(1e-6 if moves else 0.0, rel=0.1), name


def stop_and_go(rank: int, world: int, stage: int, lora: bool, folder: str, start: int | None, stop: int) -> Any:
    """Train up to step ``stop``, from the beginning or from where a checkpoint left off; save, and train two steps more."""
    backend = backend_of("deepspeed", world, stage)
    model = backend.prepare(Whole(model_of(lora=lora)), LR)
    if start is not None:
        backend.load(Path(folder))
    descend(backend, model, range(start or 0, stop))
    if start is None:
        backend.save(Path(folder))
        descend(backend, model, range(stop, stop + 2))
    return whole(backend)


@pytest.mark.parametrize(("stage", "lora"), [(1, False), (2, True), (3, False), (3, True)])
def test_a_checkpoint_continues_on_as_many_workers_and_on_one(pool: Pool, stage: int, lora: bool, tmp_path: Path) -> None:
    straight, _ = pool.run(stop_and_go, stage, lora, str(tmp_path), None, 3)
    model = model_of(lora=lora)
    trained = [p for p in model.parameters() if p.requires_grad]
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == len(trained)
    assert sum(path.stat().st_size for path in files) == pytest.approx(12 * sum(p.numel() for p in trained), abs=400 * len(files))
    again, _ = pool.run(stop_and_go, stage, lora, str(tmp_path), 3, 5)
    assert furthest(again, straight) <= 1e-6
    alone = stop_and_go(0, 1, stage, lora, str(tmp_path), 3, 5)
    assert furthest(alone, straight) <= 1e-5


@pytest.mark.parametrize("stage", [2, 3])
def test_a_checkpoint_of_one_worker_continues_on_two(pool: Pool, stage: int, tmp_path: Path) -> None:
    straight = stop_and_go(0, 1, stage, False, str(tmp_path), None, 3)
    again, _ = pool.run(stop_and_go, stage, False, str(tmp_path), 3, 5)
    assert furthest(again, straight) <= 1e-5


def test_a_library_that_does_not_start_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_name: str) -> None:
        raise RuntimeError("CUDA_HOME does not exist\nmore of it")

    monkeypatch.setattr(zero_engine.importlib, "import_module", fails)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(UserError, match=r"^parallel.backend: .*machine \(CUDA_HOME does not exist\); expected fsdp.*$"):
        zero_engine.load_library(torch.device("cpu"))


def test_a_part_beyond_the_end_is_padded() -> None:
    def parameter(rank: int) -> Any:
        return SimpleNamespace(ds_tensor=torch.empty(3), ds_zero_partition_rank=rank)

    value = torch.arange(1.0, 6.0)
    assert [own_part(value, parameter(rank)).tolist() for rank in (0, 1, 2)] == [[1, 2, 3], [4, 5, 0], [0, 0, 0]]
