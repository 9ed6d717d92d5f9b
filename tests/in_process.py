"""Runs a command in the tests' own process, which has imported what the command imports; the result is a process's."""

import contextlib
import io
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path


def run_here(words: Sequence[str], command: Callable[[], object], folder: Path) -> subprocess.CompletedProcess[str]:
    """Call ``command`` in ``folder`` and return how it left and what it wrote; ``words`` are what a shell would have been given.

    Signal handlers that it installs are taken back.

    Raises:
        AssertionError: it returned instead of leaving with an exit code.
    """
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            command()
    except SystemExit as left:
        return subprocess.CompletedProcess([*words], int(left.code or 0), out.getvalue(), err.getvalue())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    raise AssertionError(f"{' '.join(words)} ended without an exit code")
