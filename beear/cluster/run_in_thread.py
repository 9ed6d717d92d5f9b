"""A long call beside the main thread: on it, Ray would take Ctrl-C and end the process with 0."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def run_beside(call: Callable[[], T]) -> T:
    """Return what ``call`` returns, or raise what it raises; a signal reaches the main thread meanwhile."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(call())
        # Whatever it is, the main thread raises it.
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if failed:
        raise failed[0]
    return done[0]
