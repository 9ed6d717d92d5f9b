"""Ray Data gives every worker exactly what the in-process twin gives, and says what is wrong with a row."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray.train.torch import TorchTrainer

from beear.cluster.events import Event, EventQueue
from beear.data import data_source
from beear.data.files import read_block
from beear.data.load import load_small, training_plan
from beear.data.local import LocalBatches
from beear.data.locations import Block
from beear.errors import UserError
from beear.models.inspect import inspect_checkpoint
from beear.streams.batches import StreamBatches
from beear.streams.datasets import StreamSpec, dataset, datasets, template_of
from beear.testing.checkpoints import make_checkpoint
from tests.configs import Sized
from tests.data_sets import anchor_records, config_for, plan_for, write_lines
from tests.same_batches import assert_same_epoch, compare_on_worker

CONTEXT = 256


pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture
def stream(tmp_path: Path) -> StreamSpec:
    """A plan of two epochs over small files and a tiny checkpoint."""
    _, plan = plan_for(config_for(tmp_path))
    return StreamSpec(plan, inspect_checkpoint(str(make_checkpoint(tmp_path / "model"))), epochs=2)


def batches_of(stream: StreamSpec, rank: int, world: int, **more: Any) -> StreamBatches:
    shard = dataset(stream, rank, world, **more).iterator()
    return StreamBatches(stream, template_of(stream).tokenizer, rank, world, shard=shard)


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2)])
def test_the_stream_equals_its_local_twin(stream: StreamSpec, rank: int, world: int) -> None:
    remote = batches_of(stream, rank, world)
    local = LocalBatches(stream.plan, template_of(stream), rank, world)
    for epoch in (1, 2, 1):
        assert_same_epoch(remote.epoch(epoch), local.epoch(epoch))


def test_an_epoch_left_early_and_a_later_start_give_the_same_next_epoch(stream: StreamSpec) -> None:
    local = LocalBatches(stream.plan, template_of(stream))
    remote = batches_of(stream, 0, 1)
    remote.epoch(1).inner()
    assert_same_epoch(remote.epoch(2), local.epoch(2))


def test_a_resumed_stream_begins_with_its_epoch_and_tells_what_was_read(stream: StreamSpec) -> None:
    queue = EventQueue.remote()  # type: ignore[attr-defined]  # ray.remote hides its method from the checker
    resumed = batches_of(stream, 0, 1, last_done=lambda: 1, events=queue)
    local = LocalBatches(stream.plan, template_of(stream))
    assert_same_epoch(resumed.epoch(2), local.epoch(2))
    # Rows of 10 defense batches of 8 and as many texts; both files are small and read whole, requests for two uses.
    train = [len(found.train_rows(found.blocks)) for found in (stream.plan.defense, stream.plan.anchor)]
    assert told(queue, 1) == [{"kind": "rows", "epoch": 2, "worker": 0, "read": 2 * train[0] + train[1], "encoded": 2 * 10 * 8}]
    with pytest.raises(RuntimeError, match="the stream begins with epoch 2; expected epoch 1"):
        resumed.epoch(1).inner()


def told(queue: Any, count: int) -> list[Event]:
    """Wait for ``count`` events and return all."""
    events: list[Event] = []
    while len(events) < count:
        events += ray.get(queue.take.remote())
    return events


def test_two_workers_of_ray_train_share_all_cpus_with_their_reading_tasks(stream: StreamSpec, tmp_path: Path) -> None:
    target = tmp_path / "seen"
    target.mkdir()
    cpus = ray.cluster_resources()["CPU"]
    TorchTrainer(
        compare_on_worker,
        train_loop_config={"stream": stream, "target": target},
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": cpus / 2 - 0.25}),
        run_config=ray.train.RunConfig(storage_path=str(tmp_path / "ray")),
        datasets=datasets(stream, 2),
        dataset_config=ray.train.DataConfig(
            datasets_to_split=[], execution_options=ray.data.ExecutionOptions(preserve_order=True)
        ),
    ).fit()
    assert [json.loads((target / str(rank)).read_text()) for rank in range(2)] == [[4] * 20, [4] * 20]


def test_a_bad_row_met_by_a_task_is_one_sentence_on_the_worker(stream: StreamSpec) -> None:
    path = Path(stream.plan.anchor.blocks[0].path)
    lines = path.read_bytes().splitlines()
    lines[122] = b'{"prompt": 7, "response": "eight"}'
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=r"anchor\.jsonl, line 123: prompt is 7; expected a text"):
        list(batches_of(stream, 0, 1).epoch(1).outer())


def test_a_large_anchor_file_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = [{**r, "response": r["response"] + " and so on" * 150} for r in anchor_records(50_000)]
    path = write_lines(tmp_path / "large.jsonl", wide)
    config = config_for(tmp_path, {"data.anchor.path": str(path), "data.max_length": 2000}, sizes=Sized(context=2000))
    data = load_small(config.data, config.seed)
    assert data.whole == {"defense": True, "anchor": False}
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path / "model")))
    plan = training_plan(data, config, inner_batches=2)
    stream = StreamSpec(plan, facts, epochs=1)
    read: list[Block] = []
    monkeypatch.setattr(data_source, "read_block", lambda block: read.append(block) or read_block(block))
    local = LocalBatches(plan, template_of(stream)).epoch(1)
    assert_same_epoch(batches_of(stream, 0, 1).epoch(1), local)
    assert 0 < sum(block.size for block in set(read)) <= 10 << 20 < os.path.getsize(path) / 6
