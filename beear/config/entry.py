"""What every entry point does around its ``main``: exit codes, and one line instead of a traceback.

0 done; 1 crash; 2 the user's input; 3 gate refused or inconclusive (returned by ``main``); 130 interrupted.
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


def run_entry(main: Callable[[], int]) -> NoReturn:
    """Run ``main`` and leave the process with its exit code; SIGTERM counts as Ctrl-C."""
    catch_signals()
    code = _code(main)
    if _reader_gone():
        _silence()
    sys.exit(code)


def catch_signals() -> None:
    """Make SIGTERM and Ctrl-C interrupt the main thread.

    To be called again after anything that puts handlers of its own in place and ends the process by another code.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)


def one_line(message: str) -> str:
    """Return a message on one line, with characters that would move or colour a terminal written out."""
    joined = " ".join(part.strip() for part in message.splitlines() if part.strip())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


def _code(main: Callable[[], int]) -> int:
    try:
        return main()
    except UserError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Any other pipe, to a server or a worker, is a crash like the rest.
        if not _reader_gone():
            traceback.print_exc()
        return CRASHED
    except Exception:
        traceback.print_exc()
        return CRASHED


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _reader_gone() -> bool:
    """Say whether nobody reads standard output any more, as after ``| head``."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLERR)
    except (OSError, ValueError):
        return False
    # Unbuffered output leaves nothing to flush, but the system knows that the other end is closed.
    return bool(poll.poll(0))


def _silence() -> None:
    """Point standard output at nothing, or the interpreter complains once more while leaving."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
