"""Training processes that wait for their turn, so that two ways of working can be timed in turns on one machine."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

from benchmarks.pool import Pool

# An epoch of the slowest backend, on a machine that has other work.
SECONDS = 1200.0
# A worker's own, between its turns.
_works: dict[str, Callable[[], Any]] = {}


class Crew:
    """``world`` processes of one thread each; ``run`` lets all of them work once and returns what each says.

    ``build(rank, world, *arguments)`` is called once in each process and returns its works by name: functions without
    arguments.
    """

    def __init__(self, world: int, build: Callable[..., dict[str, Callable[[], Any]]], *arguments: Any) -> None:
        """Start the processes and wait until all are built."""
        self._pool = Pool(world, SECONDS)
        self._pool.run(_prepare, build, arguments)

    def run(self, name: str) -> list[Any]:
        """Let every process do its work ``name`` and return the results in rank order.

        Raises:
            WorkerFailed: a process failed or ended.
        """
        return self._pool.run(_work, name)

    def __enter__(self) -> "Crew":
        """Return the crew."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the processes."""
        self._pool.close()


def _prepare(rank: int, world: int, build: Callable[..., dict[str, Callable[[], Any]]], arguments: tuple[Any, ...]) -> None:
    _works.update(build(rank, world, *arguments))


def _work(_rank: int, _world: int, name: str) -> Any:
    return _works[name]()
