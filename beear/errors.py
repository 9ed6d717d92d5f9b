"""Errors that another try would meet again, and how they cross a process: as a plain value, a :class:`Fault`."""

from dataclasses import dataclass
from typing import Literal


class UserError(Exception):
    """Bad input, said in one sentence that names the place, the value found and what was expected.

    Entry points print the message and exit with code 2. Raise it wherever the mistake is seen. One found on a worker travels to
    the driver as a :class:`Fault` and is raised there.
    """


class Diverged(Exception):
    """A loss or a gradient is not finite. What earlier epochs saved stays."""


@dataclass(frozen=True)
class Fault:
    """An error that another try would meet again, as a value that crosses a process: no traceback, no class to import.

    ``kind``: the ``user`` can mend it, or training ``diverged``.
    """

    kind: Literal["user", "diverged"]
    sentence: str

    @classmethod
    def of(cls, error: BaseException) -> "Fault | None":
        """Return what to send of ``error``; None for one that another try may not meet."""
        if isinstance(error, UserError):
            return cls("user", str(error))
        return cls("diverged", str(error)) if isinstance(error, FloatingPointError | Diverged) else None

    def error(self) -> Exception:
        """Return the error to raise where it has arrived."""
        return UserError(self.sentence) if self.kind == "user" else Diverged(self.sentence)


def nearest(name: str, known: list[str]) -> str:
    """Return `` (did you mean "x"?)`` for the known name closest to ``name``, or an empty string."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f' (did you mean "{close[0]}"?)' if close else ""
