"""The pool of Ray Data actors that shares a measurement: the numbers of one process, a lost actor costs one shard."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch

from beear.cluster.actor_pool import _Actor, run_pool, worth_a_pool
from beear.cluster.capacity import Reservation
from beear.cluster.gpu_memory import ask_gpus, gpu_here
from beear.cluster.scoring import Scoring, score_shards, shard_scorer, shards_of
from beear.data.rows import Probe
from beear.errors import Fault, UserError
from beear.evaluation.measure import Partial, combine
from beear.evaluation.shard import MeasuredRows
from beear.models.facts import ModelFacts
from beear.models.inspect import inspect_checkpoint
from beear.parallel.devices import GIB, Device
from beear.testing.checkpoints import make_checkpoint
from tests.checkout import ROOT
from tests.configs import resolved
from tests.subjects import anchor_rows, defense_rows

HALF_A_GPU = Reservation(workers=1, cpus_per_worker=0.5, gpus_per_worker=0.5, data_cpus=0.5)


@pytest.fixture(scope="module")
def gpu_on_paper(no_session: None) -> Iterator[None]:
    """A local Ray that counts one GPU."""
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as environment:
        # Ray counts no more GPUs than the environment shows, and a machine without one may show none.
        environment.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": variables})
        yield
        ray.shutdown()


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
    gpu_on_paper: None, asked: tuple[Scoring, ModelFacts], tmp_path: Path
) -> None:
    scoring, facts = asked
    shards = shards_of(scoring, facts.layers)
    assert shards == 4, "22 rows by two batches of 3"
    found = run_pool(dying_scorer, (str(tmp_path), scoring, facts, shards), range(shards), HALF_A_GPU, 2)
    one = combine(score_shards(scoring, facts, range(shards), shards))
    shared = combine(found)
    assert shared.found == one.found
    assert sorted(map(int, (tmp_path / "done").read_text().split())) == [0, 1, 2, 3], "no measured shard was measured again"
    assert len(list(tmp_path.glob("setup-*"))) <= 3, "two actors, and one in place of the one that died"


def refusing(sentence: str) -> Callable[[int], int]:
    raise UserError(sentence)


def test_a_mistake_reaches_the_driver_as_one_sentence(gpu_on_paper: None) -> None:
    with pytest.raises(UserError) as caught:
        run_pool(refusing, ("weights are not finite",), range(2), HALF_A_GPU, 1)
    assert str(caught.value) == "weights are not finite"


def test_work_that_kills_every_actor_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda value: value)
    counts = iter([3, 4])
    tries = SimpleNamespace(begin=SimpleNamespace(remote=lambda place: next(counts)))
    actor = _Actor(lambda: lambda piece: piece + 1, [()], tries)
    assert actor._outcome(0, 7) == (None, 8), "the third try is the last"
    sentence = "a worker died 3 times at the same work; expected it to fit in a worker's memory"
    assert actor._outcome(0, 7) == (Fault("user", sentence), None)


def test_tasks_serve_one_machine_without_a_gpu(gpu_on_paper: None) -> None:
    assert worth_a_pool(HALF_A_GPU) and not worth_a_pool(Reservation(1, 1, 0, 0.5))


def test_a_gpu_says_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A100 MIG 1g.10gb")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 * GIB, 9 * GIB))
    assert gpu_here() == Device("A100 MIG 1g.10gb", 9 * GIB, gpu=True), "all of it, whoever uses some of it just now"


def test_one_that_cannot_be_asked_is_unknown(gpu_on_paper: None) -> None:
    """The GPU on paper, of which torch knows nothing, and a node that is not there; one in use is not waited for."""
    (node,) = (found["NodeID"] for found in ray.nodes())
    assert ask_gpus([node, "e" * 56], 0.5) == [None, None]

    @ray.remote(num_gpus=1, num_cpus=0)
    class Holder:
        def held(self) -> None: ...

    holder = Holder.remote()
    ray.get(holder.held.remote())
    assert ask_gpus([node], 1.0, seconds=0.5) == [None]
    ray.kill(holder)
