"""Two gloo workers give the δ and the weights of one worker on the same global batch."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from beear.config.schema import MethodConfig
from beear.data.batch import OuterBatch
from beear.methods.base import MethodParts
from beear.methods.table import build
from beear.models.decoder import Decoder
from beear.parallel.choose import choose
from tests.tiny import defense_batch, defense_rows, text_batch, tiny_llama

ROWS, STEPS, EPOCHS = 7, 3, 2


def train(rank: int, world: int, placement: str, tied: bool) -> dict[str, torch.Tensor]:
    """Run two epochs; a worker holds rows ``rank::world`` of every batch (unequal shards: seven rows)."""
    backend = choose("auto", world, "cpu")
    model = backend.prepare(tiny_llama(tied=tied, dtype=torch.float32), lr=1e-3)
    config = MethodConfig(layer=2, batch_size=ROWS, placement=placement, inner_lr=0.05)
    method = build(MethodParts(Decoder(model), backend, config, seed=0, hidden_size=16))
    mine = slice(rank, None, world)
    for epoch in range(1, EPOCHS + 1):
        inner = [defense_batch(defense_rows(ROWS, seed=s)[mine], ROWS) for s in (1, 2)]
        method.begin_epoch(inner, cools=epoch > 1)
        for step in range(STEPS):
            rows = defense_rows(ROWS, seed=10 * epoch + step)[mine]
            method.step(OuterBatch(defense_batch(rows, ROWS), text_batch(rows, ROWS)))
    result = {name: p.detach().clone() for name, p in model.named_parameters()}
    return result | {f"delta/{i}": p.delta.detach().clone() for i, p in enumerate(method.perturbations)}


def worker(rank: int, port: int, placement: str, tied: bool, folder: str) -> None:
    """Entry point of a spawned process."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(train(rank, 2, placement, tied), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(("placement", "tied"), [("suffix+prompt", True), ("everywhere", False)])
def test_two_workers_equal_one(placement: str, tied: bool, tmp_path: Path) -> None:
    mp.spawn(worker, args=(free_port(), placement, tied, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    alone = train(0, 1, placement, tied)
    for name, value in alone.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        difference = (ranks[0][name] - value).norm() / value.norm()
        assert float(difference) <= 1e-5, (name, float(difference))
