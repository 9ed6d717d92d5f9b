"""Worker processes of one thread each, with a process group (gloo), that stay: importing the libraries costs seconds."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

# They only end what hangs, on a machine that is busy too.
START_SECONDS, CALL_SECONDS = 600.0, 600.0


class WorkerFailed(AssertionError):
    """A function raised on a worker, or did not return in time; the message holds the worker's traceback."""


class Pool:
    """``run(function, *arguments)`` calls ``function(rank, world, *arguments)`` on all workers and returns their results.

    Functions, arguments and results are picklable; functions stand at the top of a module. The process group is there
    when a function runs. After a failure all workers are ended, and the next call spawns new ones.
    """

    def __init__(self, world: int = 2, seconds: float = CALL_SECONDS) -> None:
        """Spawn nothing yet; ``seconds`` is how long a call may take, and a worker may wait for another."""
        self.world, self.seconds = world, seconds
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def run(self, function: Callable[..., Any], *arguments: Any, seconds: float | None = None) -> list[Any]:
        """Return the workers' results in rank order.

        Raises:
            WorkerFailed: a worker raised, died, or took longer than ``seconds`` (unset: the pool's).
        """
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((function, arguments))
        return self._answers(seconds or self.seconds)

    def close(self) -> None:
        """End all workers."""
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._pipes = [], []

    def _start(self) -> None:
        # Workers fork from a process that has imported what they need: that takes seconds, and is no call's own time.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["beear.engine.session", "transformers.models.llama.modeling_llama"])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        for rank in range(self.world):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.world, port, self.seconds, there), daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            self._pipes.append(here)
        self._answers(START_SECONDS)

    def _answers(self, seconds: float) -> list[Any]:
        answers: dict[int, Any] = {}
        while len(answers) < self.world:
            open_pipes = [pipe for rank, pipe in enumerate(self._pipes) if rank not in answers]
            ready = wait(open_pipes, timeout=seconds)
            if not ready:
                self.close()
                raise WorkerFailed(f"no answer within {seconds:.0f} s from {self.world - len(answers)} workers")
            for pipe in ready:
                rank = self._pipes.index(pipe)  # type: ignore[arg-type]
                try:
                    failed, answers[rank] = pipe.recv()  # type: ignore[union-attr]
                except EOFError:
                    failed, answers[rank] = True, "the process died"
                if failed:
                    self.close()
                    raise WorkerFailed(f"worker {rank}:\n{answers[rank]}")
        return [answers[rank] for rank in range(self.world)]


def _serve(rank: int, world: int, port: int, seconds: float, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=seconds))
    pipe.send((False, None))
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((False, function(rank, world, *arguments)))
        except BaseException:
            pipe.send((True, traceback.format_exc()))
