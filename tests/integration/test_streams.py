"""Ray Data gives every worker exactly what the in-process twin gives, and says what is wrong with a row."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import ray.train
from ray.train.torch import TorchTrainer

from beear.data import source
from beear.data.blocks import Block
from beear.data.files import read_block
from beear.data.load import load_small, training_plan
from beear.data.local import LocalBatches
from beear.errors import UserError
from beear.models.inspect import inspect_checkpoint
from beear.streams.batches import StreamBatches
from beear.streams.datasets import StreamPlan, datasets
from beear.streams.reading import template_of
from beear.testing.checkpoints import make_checkpoint
from tests.configs import Sized
from tests.data_sets import anchor_records, config_for, plan_for, write_lines
from tests.same_batches import assert_same_epoch, compare_on_worker

CONTEXT = 256


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray head with two CPUs."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def stream(tmp_path: Path) -> StreamPlan:
    """A plan of two epochs over small files and a tiny checkpoint."""
    _, plan = plan_for(config_for(tmp_path))
    return StreamPlan(plan, inspect_checkpoint(str(make_checkpoint(tmp_path / "model"))), epochs=2)


def batches_of(stream: StreamPlan, rank: int, world: int) -> StreamBatches:
    shard = datasets(stream, world)[f"rows-{rank}"].iterator()
    return StreamBatches(stream, template_of(stream).tokenizer, rank, world, shard=shard)


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2)])
def test_the_stream_equals_its_local_twin(cluster: None, stream: StreamPlan, rank: int, world: int) -> None:
    remote = batches_of(stream, rank, world)
    local = LocalBatches(stream.plan, template_of(stream), rank, world)
    for epoch in (1, 2, 1):
        assert_same_epoch(remote.epoch(epoch), local.epoch(epoch))


def test_an_epoch_left_early_and_a_later_start_give_the_same_next_epoch(cluster: None, stream: StreamPlan) -> None:
    local = LocalBatches(stream.plan, template_of(stream))
    remote = batches_of(stream, 0, 1)
    remote.epoch(1).inner()
    assert_same_epoch(remote.epoch(2), local.epoch(2))
    resumed = batches_of(replace(stream, first_epoch=2), 0, 1)
    assert_same_epoch(resumed.epoch(2), local.epoch(2))


def test_two_workers_of_ray_train_share_two_cpus_with_their_reading_tasks(
    cluster: None, stream: StreamPlan, tmp_path: Path
) -> None:
    target = tmp_path / "seen"
    target.mkdir()

    TorchTrainer(
        compare_on_worker,
        train_loop_config={"stream": stream, "target": target},
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.75}),
        run_config=ray.train.RunConfig(storage_path=str(tmp_path / "ray")),
        datasets=datasets(stream, 2),
        dataset_config=ray.train.DataConfig(
            datasets_to_split=[], execution_options=ray.data.ExecutionOptions(preserve_order=True)
        ),
    ).fit()
    assert [json.loads((target / str(rank)).read_text()) for rank in range(2)] == [[4] * 20, [4] * 20]


def test_a_bad_row_met_by_a_task_is_one_sentence_on_the_worker(cluster: None, stream: StreamPlan) -> None:
    path = Path(stream.plan.anchor.blocks[0].path)
    lines = path.read_bytes().splitlines()
    lines[122] = b'{"prompt": 7, "response": "eight"}'
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=r"anchor\.jsonl, line 123: prompt is 7; expected a text"):
        list(batches_of(stream, 0, 1).epoch(1).outer())


def test_a_large_anchor_file_is_not_read_to_its_end(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = [{**r, "response": r["response"] + " and so on" * 150} for r in anchor_records(50_000)]
    path = write_lines(tmp_path / "large.jsonl", wide)
    config = config_for(tmp_path, {"data.anchor.path": str(path), "data.max_length": 2000}, sizes=Sized(context=2000))
    started = time.process_time()
    data = load_small(config.data, config.seed)
    assert data.whole == {"defense": True, "anchor": False}
    assert time.process_time() - started < 3
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path / "model")))
    plan = training_plan(data, config, inner_batches=2)
    stream = StreamPlan(plan, facts, epochs=1)
    read: list[Block] = []
    monkeypatch.setattr(source, "read_block", lambda block: read.append(block) or read_block(block))
    local = LocalBatches(plan, template_of(stream)).epoch(1)
    assert_same_epoch(batches_of(stream, 0, 1).epoch(1), local)
    assert 0 < sum(block.size for block in set(read)) <= 10 << 20 < os.path.getsize(path) / 6
