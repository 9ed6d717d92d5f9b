"""What needs a GPU that Ray counts: a pool on a share of one, what it says of its memory, one that does not answer."""

from collections.abc import Callable, Iterator

import pytest
import ray
import torch

from beear.cluster.actor_pool import run_pool
from beear.cluster.capacity import Reservation
from beear.cluster.gpu_memory import ask_gpus, gpu_here
from beear.errors import UserError
from beear.parallel.devices import GIB, Device
from tests.checkout import ROOT

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


def refusing(sentence: str) -> Callable[[int], int]:
    raise UserError(sentence)


def test_a_mistake_reaches_the_driver_as_one_sentence(gpu_on_paper: None) -> None:
    with pytest.raises(UserError) as caught:
        run_pool(refusing, ("weights are not finite",), range(2), HALF_A_GPU, 1)
    assert str(caught.value) == "weights are not finite"


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
