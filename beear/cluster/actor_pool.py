"""A pool of Ray Data actors: each sets itself up once, then takes pieces of work one after another.

Work balances itself, and a lost actor costs only the piece it held. An actor starts a new process, which imports everything
again (seconds), where a task may find a process that has: see :func:`worth_a_pool`.
"""

import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data

from beear.cluster.capacity import Reservation
from beear.cluster.tasks import RETRIES, Outcome, guarded, share_of, values_of
from beear.errors import Fault
from beear.streams.datasets import quiet

Work = Callable[[Any], Any]


def worth_a_pool(reservation: Reservation) -> bool:
    """Say whether a pool pays: on GPUs, where tasks start new processes too, and on several nodes."""
    return reservation.gpus_per_worker > 0 or sum(bool(node["Alive"]) for node in ray.nodes()) > 1


def run_pool(
    setup: Callable[..., Work], arguments: tuple[Any, ...], pieces: Sequence[Any], reservation: Reservation, actors: int
) -> list[Any]:
    """Return ``setup(*arguments)(piece)`` for each of ``pieces``, in order, computed by ``actors`` actors.

    Each actor calls ``setup`` once. ``arguments`` reach them through the object store; pieces are small.

    Raises:
        UserError: ``setup`` or the work raised it, or a piece killed its actor on every try.
    """
    quiet(ray.data.DataContext.get_current())
    rows = [{"place": place, "piece": pickle.dumps(piece)} for place, piece in enumerate(pieces)]
    tries = _Tries.remote()  # type: ignore[attr-defined]  # ray.remote gives it
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,  # type: ignore[arg-type]  # its constructor's arguments come from fn_constructor_kwargs
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_kwargs={"setup": setup, "arguments": [ray.put(arguments)], "tries": tries},
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
        **share_of(reservation),
    )
    found = {row["place"]: pickle.loads(row["outcome"]) for row in done.iter_rows()}
    return values_of([found[place] for place in range(len(pieces))])


@ray.remote(num_cpus=0)
class _Tries:
    """Counts how often each piece was begun. Ray Data would retry a piece that kills its actor without end."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def begin(self, place: int) -> int:
        self._counts[place] += 1
        return self._counts[place]


class _Actor:
    """One worker. It sets itself up at its first piece, since Ray restarts an actor whose constructor fails without end."""

    def __init__(self, setup: Callable[..., Work], arguments: list[Any], tries: Any) -> None:
        self._setup, self._arguments, self._tries = setup, arguments, tries
        self._ready: Outcome | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        places, pieces = (batch.column(name).to_pylist() for name in ("place", "piece"))
        outcomes = [self._outcome(place, pickle.loads(piece)) for place, piece in zip(places, pieces, strict=True)]
        packed = pa.array([pickle.dumps(outcome) for outcome in outcomes], pa.binary())
        return pa.table({"place": batch.column("place"), "outcome": packed})

    def _outcome(self, place: int, piece: Any) -> Outcome:
        tries = ray.get(self._tries.begin.remote(place))
        if tries > 1 + RETRIES:
            return Fault(
                "user", f"a worker died {tries - 1} times at the same work; expected it to fit in a worker's memory"
            ), None
        if self._ready is None:
            self._ready = guarded(self._setup, ray.get(self._arguments)[0])
        fault, work = self._ready
        return (fault, None) if fault is not None else guarded(work, (piece,))
