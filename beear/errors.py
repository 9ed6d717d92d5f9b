"""Errors that another try would meet again, and how they cross a process: as a plain value, a :class:`Fault`."""

import re
from dataclasses import dataclass
from typing import Literal

SHORTEST_PART, LETTERS_PER_SLIP = 3, 4


class UserError(Exception):
    """Bad input, said in one sentence that names the place, the value found and what was expected.

    Entry points print the message and exit with code 2. Raise it wherever the mistake is seen. One found on a worker travels to
    the driver as a :class:`Fault` and is raised there. Several mistakes that are seen at once are several arguments, a sentence
    each, and are printed on a line each.
    """

    def __str__(self) -> str:
        """Return the sentences, one a line."""
        return "\n".join(map(str, self.args))


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
    """Return `` (did you mean "x"?)`` for the known name that was plausibly meant, or an empty string.

    It is a slip of the hand away (a wrong, missing, surplus or swapped letter for every four of the name), or one of the two
    names is the beginning or the last words of the other. Capitals, ``-`` and ``_`` make no difference; other numbers do.
    """
    close = [(edits, other) for other in known if (edits := _apart(_plain(name), _plain(other))) is not None]
    return f' (did you mean "{min(close, key=lambda found: found[0])[1]}"?)' if close else ""


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "_")


def _apart(one: str, two: str) -> int | None:
    """Return how many slips lie between two names, None where nobody would take one for the other."""
    short, long = sorted((one, two), key=len)
    if len(short) >= SHORTEST_PART and (long.startswith(short) or long.endswith((f"_{short}", f".{short}"))):
        return len(long) - len(short)
    numbers = [re.findall(r"\d+", name) for name in (one, two)]
    allowed = max(1, len(one) // LETTERS_PER_SLIP)
    # In a name of two or three letters another letter is another name, and so is another number in any.
    another = len(long) <= SHORTEST_PART and len(short) == len(long) and sorted(short) != sorted(long)
    if another or len(short) < 2 or len(long) - len(short) > allowed or (all(numbers) and numbers[0] != numbers[1]):
        return None
    slips = _slips(one, two)
    return slips if slips <= allowed else None


def _slips(one: str, two: str) -> int:
    """Return the letters to change, add, drop or swap with their neighbour to make one name the other."""
    rows = [list(range(len(two) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(two, 1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and (a, b) == (two[j - 2], one[i - 2]):
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]
