"""Training processes that wait for their turn, so that two ways of working can be timed in turns on one machine."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

Work = Callable[[], Any]


class Crew:
    """``world`` processes of one thread each; ``run`` lets all of them work once and returns what each says.

    ``build(rank, world, *arguments)`` is called once in each process, with the process group there (gloo), and returns
    the work: a function without arguments, or several by name.
    """

    def __init__(self, world: int, build: Callable[..., Any], *arguments: Any) -> None:
        """Start the processes and wait until all are built."""
        context = multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(world):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, world, port, there, build, arguments), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)
        self._answers()

    def run(self, name: str = "work") -> list[Any]:
        """Let every process do its work ``name`` and return the results in rank order.

        Raises:
            RuntimeError: a process ended.
        """
        for pipe in self._pipes:
            pipe.send(name)
        return self._answers()

    def _answers(self) -> list[Any]:
        try:
            return [pipe.recv() for pipe in self._pipes]
        except EOFError as error:
            raise RuntimeError("a process of the crew ended; what it printed says why") from error

    def __enter__(self) -> "Crew":
        """Return the crew."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()


def _serve(rank: int, world: int, port: int, pipe: Connection, build: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    work = build(rank, world, *arguments)
    pipe.send(None)
    while True:
        try:
            name = pipe.recv()
        except EOFError:
            return
        pipe.send(work[name]())
