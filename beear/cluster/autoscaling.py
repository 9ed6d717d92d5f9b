"""Clusters that grow: what an autoscaler may yet add, and waiting until it has."""

import time
from collections.abc import Callable, Sequence

import ray
from ray._private.state import state
from ray.util.placement_group import placement_group, remove_placement_group

from beear.errors import UserError

# A GPU node takes minutes to start, and a spot one may have to be found first.
PATIENCE_SECONDS = 1800.0
# Python hears of Ctrl-C between two looks.
LOOK_SECONDS = 2.0
Bundle = dict[str, float]


def possible() -> Bundle:
    """Return what the cluster has, or may have once its autoscaler has added all that it is allowed to."""
    there = ray.cluster_resources()
    # No public interface tells; Ray Train refuses by the same one. It knows nothing where there is no autoscaler.
    most = state.get_max_resources_from_cluster_config() or {}
    return {name: max(there.get(name, 0.0), float(most.get(name, 0.0))) for name in {*there, *most}}


def await_bundles(bundles: Sequence[Bundle], say: Callable[[str], None], patience: float = PATIENCE_SECONDS) -> None:
    """Have the autoscaler add nodes until ``bundles`` fit at once, each on one node, and wait for that.

    The bundles are reserved for a moment only. That is a demand which ends with this process: one that is set for the
    cluster as a whole would keep nodes alive after a driver that was killed.

    Raises:
        UserError: they did not come in time.
    """
    group = placement_group(list(bundles), strategy="PACK")
    began = time.monotonic()
    try:
        while not group.wait(LOOK_SECONDS):
            if time.monotonic() - began > patience:
                raise UserError(
                    f"the cluster's autoscaler added too little in {patience / 60:.0f} minutes, expected room for {len(bundles)} "
                    "reservations; the same command asks again (`ray status` says what it tried)"
                )
    finally:
        remove_placement_group(group)
    say(f"  note: the nodes were there after {time.monotonic() - began:.0f} s")
