"""The pool of Ray Data actors that shares a measurement: the numbers of one process, a lost actor costs one shard."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from beear.cluster.actor_pool import _Actor, run_pool, worth_a_pool
from beear.cluster.capacity import Reservation
from beear.cluster.connection import RaySession
from beear.cluster.scoring import Scoring, score_shards, shard_scorer, shards_of
from beear.data.rows import Probe
from beear.errors import Fault
from beear.evaluation.measure import Partial, combine
from beear.evaluation.shard import MeasuredRows
from beear.models.facts import ModelFacts
from beear.models.inspect import inspect_checkpoint
from beear.testing.checkpoints import make_checkpoint
from tests.configs import resolved
from tests.subjects import anchor_rows, defense_rows

HALF_A_CPU = Reservation(workers=1, cpus_per_worker=0.5, gpus_per_worker=0.0, data_cpus=0.5)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scoring, ModelFacts]:
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path_factory.mktemp("model"))))
    values = {"batch_size": 3, "max_new_tokens": 4, "resistance.steps": 2, "resistance.rows": 8}
    config = resolved({f"evaluate.{name}": value for name, value in values.items()}, facts)
    rows = MeasuredRows(defense_rows(20), anchor_rows(22), [Probe("early", "prefix", "zeta")])
    return Scoring(config, rows), facts


def dying_scorer(folder: str, scoring: Scoring, facts: ModelFacts, shards: int) -> Callable[[int], Partial]:
    """Set up as a shard's scorer is, and note it; the first actor to hold shard 2 dies of it."""
    Path(folder, f"setup-{os.getpid()}").touch()
    measured = shard_scorer(scoring, facts, shards)

    def work(rank: int) -> Partial:
        if rank == 2 and not Path(folder, "died").exists():
            Path(folder, "died").touch()
            os._exit(1)
        with Path(folder, "done").open("a") as file:
            file.write(f"{rank}\n")
        return measured(rank)

    return work


def test_a_pool_gives_the_numbers_of_one_process_and_loses_one_shard_with_an_actor(
    session: RaySession, asked: tuple[Scoring, ModelFacts], tmp_path: Path
) -> None:
    scoring, facts = asked
    shards = shards_of(scoring, facts.layers)
    assert shards == 4, "22 rows by two batches of 3"
    found = run_pool(dying_scorer, (str(tmp_path), scoring, facts, shards), range(shards), HALF_A_CPU, 2)
    one = combine(score_shards(scoring, facts, range(shards), shards))
    shared = combine(found)
    assert shared.found == one.found
    assert sorted(map(int, (tmp_path / "done").read_text().split())) == [0, 1, 2, 3], "no measured shard was measured again"
    assert len(list(tmp_path.glob("setup-*"))) <= 3, "two actors, and one in place of the one that died"


def test_work_that_kills_every_actor_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda value: value)
    counts = iter([3, 4])
    tries = SimpleNamespace(begin=SimpleNamespace(remote=lambda place: next(counts)))
    actor = _Actor(lambda: lambda piece: piece + 1, [()], tries)
    assert actor._outcome(0, 7) == (None, 8), "the third try is the last"
    sentence = "a worker died 3 times at the same work; expected it to fit in a worker's memory"
    assert actor._outcome(0, 7) == (Fault("user", sentence), None)


def test_tasks_serve_one_machine_without_a_gpu(session: RaySession) -> None:
    assert worth_a_pool(Reservation(1, 0.5, 0.5, 0.5)) and not worth_a_pool(HALF_A_CPU)
