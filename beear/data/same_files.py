"""One file that is given as two, whatever its names: by links, or as a copy."""

from collections.abc import Mapping, Sequence

from beear.data import storage
from beear.errors import UserError

SETS = "expected two sets, since a request that must be refused cannot be answered too."
REPORT = "expected two files, since rows that are learnt cannot report."


def digests_of(given: Mapping[str, Sequence[str]], told_apart: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    """Return the digest of each file of ``given``, which names the files of each role.

    ``told_apart``: two roles that may share no content, with what is expected instead.

    Raises:
        UserError: they share some.
    """
    digests = {path: storage.file_digest(path) for paths in given.values() for path in paths}
    for one, other, expected in told_apart:
        first = {digests[path]: path for path in reversed(given[one])}
        for path in given[other]:
            twin = first.get(digests[path])
            if twin is not None:
                copies = f"{twin} ({one}) and {path} ({other}) hold the same bytes"
                found = f"{path} is read by {one} and by {other}" if twin == path else copies
                raise UserError(f"{found}; {expected}")
    return digests
