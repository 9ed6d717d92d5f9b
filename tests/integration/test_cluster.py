"""A plan against what a cluster says it has; the cluster itself is made up."""

import pytest
import ray

from beear.cluster.capacity import Reservation, check_resources
from beear.cluster.scoring import slots_of
from beear.errors import UserError


def cluster(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float]) -> None:
    total: dict[str, float] = {}
    for node in nodes:
        total = {name: total.get(name, 0.0) + node.get(name, 0.0) for name in {*total, *node}}
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])


def test_a_plan_that_fits_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, {"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 2})
    check_resources(Reservation(workers=4, cpus_per_worker=3, gpus_per_worker=1, data_cpus=2))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, {"CPU": 2})
    with pytest.raises(UserError, match=r"7.5 more CPU \(it has 2, the plan needs 9.5\) and 1 more GPU"):
        check_resources(Reservation(workers=1, cpus_per_worker=9, gpus_per_worker=1, data_cpus=0.5))


def test_a_worker_does_not_spread_over_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, {"CPU": 4}, {"CPU": 5})
    with pytest.raises(UserError, match="a worker must fit on one node, and its nodes hold 1"):
        check_resources(Reservation(workers=2, cpus_per_worker=4.2, gpus_per_worker=0, data_cpus=0.5))


@pytest.mark.parametrize(("parameters", "slots"), [(10**6, 16), (7 * 10**9, 2), (70 * 10**9, 1)])
def test_a_measurement_is_shared_by_as_many_as_have_room(parameters: int, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, {"CPU": 64, "memory": 128e9})
    assert slots_of(Reservation(1, 1, 0, 0.5), parameters) == slots
