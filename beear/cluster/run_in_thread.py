"""Runs a long call in a thread: in the main thread Ray would catch Ctrl-C and end the process with code 0."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def run_in_thread(call: Callable[[], T]) -> T:
    """Return what ``call`` returns, or raise what it raises. Signals still reach the main thread."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(call())
        # The main thread raises it.
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if failed:
        raise failed[0]
    return done[0]
