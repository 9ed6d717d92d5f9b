"""Waiting for an autoscaler: what is asked of it, when, and that the reservation never stays. The cluster is made up."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from beear.cluster import autoscaling
from beear.cluster.capacity import Reservation, await_room, reservation_for
from beear.config.schema import ParallelConfig
from beear.errors import UserError

HEAD, GROWN = {"CPU": 16.0}, {"CPU": 208.0, "GPU": 16.0}
WANTED = Reservation(workers=8, cpus_per_worker=1, gpus_per_worker=1, data_cpus=0.5)


class Cluster:
    """A head alone; ``most`` is what its autoscaler may add up to, ``looks`` how often one must look until it has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: dict[str, float] | None, looks: int = 1) -> None:
        self.asked: list[list[dict[str, float]]] = []
        self.removed = 0
        self._looks = looks
        monkeypatch.setattr(ray, "cluster_resources", lambda: HEAD)
        monkeypatch.setattr(autoscaling.state, "get_max_resources_from_cluster_config", lambda: most)
        monkeypatch.setattr(autoscaling, "placement_group", self._ask)
        monkeypatch.setattr(autoscaling, "remove_placement_group", self._remove)

    def _ask(self, bundles: list[dict[str, float]], strategy: str) -> Any:
        self.asked.append(bundles)
        return SimpleNamespace(wait=self._wait)

    def _wait(self, seconds: float) -> bool:
        self._looks -= 1
        return self._looks <= 0

    def _remove(self, group: Any) -> None:
        self.removed += 1


def test_what_is_missing_is_asked_for_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, said = Cluster(monkeypatch, GROWN, looks=3), []
    await_room(WANTED, said.append)
    assert cluster.asked == [[{"CPU": 1, "GPU": 1}] * 8 + [{"CPU": 0.5}]] and cluster.removed == 1
    assert "grow by 8 more GPU (it has 0, the plan needs 8)" in said[0]


def test_nobody_is_asked_for_what_is_there_or_cannot_come(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, GROWN)
    await_room(Reservation(1, 1, 0, 0.5), pytest.fail)
    await_room(Reservation(17, 1, 1, 0.5), pytest.fail)
    Cluster(monkeypatch, None)
    await_room(WANTED, pytest.fail)
    assert cluster.asked == []


def test_patience_ends_in_one_sentence_and_leaves_no_reservation(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, GROWN, looks=10**9)
    with pytest.raises(UserError, match="added too little in 0 minutes, expected room for 9 reservations"):
        autoscaling.await_bundles(WANTED.bundles, pytest.fail, patience=0.0)
    assert cluster.removed == 1


@pytest.mark.parametrize(("most", "gpus"), [(GROWN, 1.0), ({"CPU": 64.0}, 0.0), (None, 0.0)])
def test_a_gpu_that_may_come_counts_for_auto(monkeypatch: pytest.MonkeyPatch, most: dict[str, float] | None, gpus: float) -> None:
    Cluster(monkeypatch, most)
    assert reservation_for(ParallelConfig()).gpus_per_worker == gpus
