"""Weights come from files and go to files in shards: loading, checkpoints on other numbers of workers, export."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from beear.config.schema import AdapterConfig
from beear.errors import UserError
from beear.models.adapters import merged_state
from beear.models.export import export_model, form_kept
from beear.models.inspect import inspect_checkpoint
from beear.models.source import CheckpointSource
from beear.parallel.choose import choose
from beear.parallel.spread import Spread
from beear.parallel.training_state import complete
from beear.testing.checkpoints import make_checkpoint
from benchmarks.pool import Pool
from tests.distributed.job import Job, alone, largest_gap, run

LORA = AdapterConfig(kind="lora", rank=2)


@pytest.fixture
def lone_group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def run_with_own_folder(rank: int, world: int, job: Job) -> Any:
    """Run ``job`` with a folder of this worker's own to save into."""
    assert job.save is not None
    own = job.save / str(rank)
    own.mkdir(parents=True)
    return run(rank, world, replace(job, save=own))


def merge(folder: Path, target: Path) -> None:
    """Put the workers' folders together, as Ray Train does."""
    for own in sorted(folder.iterdir()):
        shutil.copytree(own, target, dirs_exist_ok=True)


FULL, LOW_RANK = Job(tied=True), Job(tied=False, lora=True)


@pytest.mark.parametrize(
    ("before", "after", "job"),
    [
        ("fsdp2", "fsdp2", LOW_RANK),
        ("fsdp2", "fsdp1", FULL),
        ("fsdp1", "fsdp2", LOW_RANK),
        ("ddp2", "single1", LOW_RANK),
        ("single1", "fsdp2", FULL),
        ("fsdp2", "ddp2", FULL),
    ],
)
def test_a_restart_trains_on_as_if_never_stopped_whatever_the_workers(
    pool: Pool, lone_group: None, before: str, after: str, job: Job, tmp_path: Path
) -> None:
    first = replace(job, backend=before[:-1], epochs=(1, 1), save=tmp_path / "own")
    second = replace(job, backend=after[:-1], epochs=(2, 2), load=tmp_path / "merged")
    if before.endswith("2"):
        pool.run(run_with_own_folder, first)
    else:
        run_with_own_folder(0, 1, first)
    merge(tmp_path / "own", tmp_path / "merged")
    assert complete(tmp_path / "merged") and complete(tmp_path / "own" / "0") == (before != "fsdp2")
    found = pool.run(run, second)[0] if after.endswith("2") else run(0, 1, second)
    assert largest_gap(found, alone(job)) <= 1e-9


def test_a_checkpoint_of_deepspeeds_own_is_refused_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "zero.json").write_text("{}")
    with pytest.raises(UserError, match="saved under deepspeed"):
        run(0, 1, Job(load=tmp_path))


@dataclass(frozen=True)
class Watched:
    """A source that says how it was used."""

    source: CheckpointSource
    numbers: list[int] = field(default_factory=list)
    wholes: list[int] = field(default_factory=list)

    def whole(self) -> nn.Module:
        self.wholes.append(1)
        return self.source.whole()

    def empty(self) -> nn.Module | None:
        return self.source.empty()

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        found = self.source.rows(name, start, stop)
        self.numbers.append(found.numel())
        return found


def loaded(rank: int, world: int, source: CheckpointSource, export: Path | None = None) -> Any:
    """Return the whole state, the numbers this worker read and holds, and how often it asked for the whole model."""
    watched = Watched(source)
    backend = choose(Spread("fsdp", world), "cpu")
    model = backend.prepare(watched, lr=1e-3)
    held = sum(p.to_local().numel() for p in model.parameters())  # type: ignore[operator]
    state = backend.full_state(lambda _name, tensor: tensor.clone())
    kept = backend.full_state(form_kept(model, source.facts))
    if export is not None and kept is not None:
        export_model(model, source.facts, export, state_dict=kept)
    return state, sum(watched.numbers), held, len(watched.wholes), [p.requires_grad for p in model.parameters()]


def written(folder: Path) -> dict[str, bytes]:
    """Return what an export wrote."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("family", "options", "adapter", "by_rows"),
    [
        ("llama", {"dtype": "bfloat16", "shards": 3}, AdapterConfig(), True),
        ("qwen2", {"tied": True, "dtype": "float16"}, AdapterConfig(), True),
        ("gemma3", {"tied": True, "dtype": "bfloat16"}, LORA, True),
        ("mixtral", {"dtype": "bfloat16"}, AdapterConfig(), False),
        ("gpt_neox", {}, LORA, False),
    ],
)
def test_shards_hold_the_loaded_model_and_export_as_it_does(
    pool: Pool, family: str, options: dict, adapter: AdapterConfig, by_rows: bool, tmp_path: Path
) -> None:
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path / "model", family, **options)))
    source = CheckpointSource(facts, adapter, seed=3)
    ranks = pool.run(loaded, source, tmp_path / "sharded")
    whole = source.whole()
    state, trained = ranks[0][0], [p.requires_grad for p in whole.parameters()]
    assert ranks[1][0] is None and list(state) == list(whole.state_dict())
    assert all(torch.equal(state[name], value) for name, value in whole.state_dict().items())
    assert [rank[4] for rank in ranks] == [trained, trained]
    total = sum(p.numel() for p in whole.parameters())
    for rank, (_, read, held, wholes, _) in enumerate(ranks):
        # Some weights have an odd number of rows.
        assert read <= held <= 0.51 * total
        assert wholes == (0 if by_rows else 1 - rank)
    assert not by_rows or sum(rank[1] for rank in ranks) == sum(
        p.numel() for n, p in whole.named_parameters() if ".lora_" not in n
    )
    export_model(whole, facts, tmp_path / "plain")
    assert written(tmp_path / "sharded") == written(tmp_path / "plain")


def test_what_waits_for_export_is_rounded_only_where_that_changes_nothing(tmp_path: Path) -> None:
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path, dtype="bfloat16")))
    model = CheckpointSource(facts, LORA, seed=0).whole()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(0, 0.3)
        # As a merged adapter leaves it: no bfloat16 holds it.
        model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj.base_layer").weight.mul_(1.001)  # type: ignore[operator]
    state = {name: form_kept(model, facts)(name, tensor) for name, tensor in model.state_dict().items()}
    wide = {name for name, tensor in state.items() if tensor.dtype == torch.float32}
    odd = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"
    assert wide == {name for name in state if ".lora_" in name} | {odd}
    found, expected = merged_state(model, state), merged_state(model)
    assert all(torch.equal(found[name].bfloat16(), value.bfloat16()) for name, value in expected.items())
