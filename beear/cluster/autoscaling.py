"""Clusters with an autoscaler: what it may still add, and waiting until it has."""

import time
from collections.abc import Callable, Sequence

import ray
from ray._private.state import state
from ray.util.placement_group import placement_group, remove_placement_group

from beear.errors import UserError

# Seconds to wait: a GPU node takes minutes to start, and a spot node may not be available at once.
PATIENCE_SECONDS = 1800.0
# Seconds between two checks; Python handles Ctrl-C in between.
LOOK_SECONDS = 2.0
Bundle = dict[str, float]


def possible() -> Bundle:
    """Return what the cluster has, or would have once its autoscaler has added everything it may."""
    there = ray.cluster_resources()
    # There is no public interface for this; Ray Train uses the same one. Without an autoscaler it returns nothing.
    most = state.get_max_resources_from_cluster_config() or {}
    return {name: max(there.get(name, 0.0), float(most.get(name, 0.0))) for name in {*there, *most}}


def await_bundles(bundles: Sequence[Bundle], say: Callable[[str], None], patience: float = PATIENCE_SECONDS) -> None:
    """Have the autoscaler add nodes until ``bundles`` fit at once, each on one node, and wait for that.

    The bundles are reserved for a moment only, so the demand ends with this process. A demand set for the whole cluster would
    keep nodes alive after a killed driver.

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
