"""Comparison of batches tensor by tensor, here and on a Ray Train worker."""

import json
from pathlib import Path
from typing import Any

import ray.train
import torch

from beear.data.batch import DefenseBatch, OuterBatch, TextBatch
from beear.data.local import EpochOfSteps, LocalBatches
from beear.streams.batches import StreamBatches
from beear.streams.datasets import template_of


def same(left: DefenseBatch | TextBatch, right: DefenseBatch | TextBatch) -> bool:
    """Say whether every tensor and number of two batches agrees."""
    pairs = zip(vars(left).values(), vars(right).values(), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def assert_same_epoch(left: EpochOfSteps, right: EpochOfSteps) -> None:
    """Assert that two epochs have batches, and the same ones."""
    inner = list(zip(left.inner(), right.inner(), strict=True))
    outer: list[tuple[OuterBatch, OuterBatch]] = list(zip(left.outer(), right.outer(), strict=True))
    assert inner and outer
    assert all(same(a, b) for a, b in inner)
    assert all(same(a.defense, b.defense) and same(a.anchor, b.anchor) for a, b in outer)


def compare_on_worker(parts: dict[str, Any]) -> None:
    """Hold a Ray Train worker's stream to its local twin, and write down its rows per batch."""
    stream, target = parts["stream"], Path(parts["target"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    remote = StreamBatches(stream, template_of(stream).tokenizer, rank, world)
    local = LocalBatches(stream.plan, template_of(stream), rank, world)
    rows = []
    for epoch in range(1, stream.epochs + 1):
        assert_same_epoch(remote.epoch(epoch), local.epoch(epoch))
        rows += [batch.anchor.rows for batch in local.epoch(epoch).outer()]
    (target / str(rank)).write_text(json.dumps(rows))
