"""Runs the ``main`` of an entry point: sets the exit code, and prints a user's error as one line instead of a traceback.

Exit codes: 0 done; 1 crash; 2 invalid input; 3 gate refused or inconclusive, or a trigger that did not take (returned by
``main``); 130 interrupted.
"""

import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from beear.errors import UserError

CRASHED, USER_ERROR, INTERRUPTED = 1, 2, 130


def run_entry(main: Callable[[], int], again: str = "to resume") -> NoReturn:
    """Run ``main`` and end the process with its exit code. SIGTERM is handled like Ctrl-C.

    ``again`` says what the same command does after an interruption.
    """
    catch_signals()
    code = _code(main, again)
    if _reader_gone():
        # Otherwise the interpreter reports the broken pipe again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def catch_signals() -> None:
    """Make SIGTERM and Ctrl-C raise KeyboardInterrupt in the main thread.

    Call it again after a library has installed its own handlers, such as ``ray.init``: those end the process with another code.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)


def one_line(message: str) -> str:
    """Return a message on one line, with control characters escaped so that they cannot move the cursor or change colours."""
    joined = " ".join(part.strip() for part in message.splitlines() if part.strip())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


def _code(main: Callable[[], int], again: str) -> int:
    try:
        return main()
    except UserError as error:
        for sentence in error.args:
            print(f"error: {one_line(str(sentence))}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"interrupted; run the same command again {again}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Only standard output may lose its reader. A broken pipe to a server or a worker is a crash.
        if not _reader_gone():
            traceback.print_exc()
        return CRASHED
    except Exception:
        traceback.print_exc()
        return CRASHED


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _reader_gone() -> bool:
    """Say whether the reader of standard output has ended, as ``| head`` does."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLERR)
    except (OSError, ValueError):
        return False
    # With unbuffered output the flush above writes nothing and cannot fail, so ask the system about the other end.
    return bool(poll.poll(0))
