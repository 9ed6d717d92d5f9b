"""Errors that are the user's to mend: one clear sentence, exit code 2, no traceback."""


class UserError(Exception):
    """Bad input, said in one sentence that names the place, the value found and what was expected.

    Entry points print the message and exit with code 2. Raise it wherever the mistake is seen;
    errors found on a cluster worker travel to the driver as values and are raised there.
    """


def nearest(name: str, known: list[str]) -> str:
    """Return `` (did you mean "x"?)`` for the known name closest to ``name``, or an empty string."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f' (did you mean "{close[0]}"?)' if close else ""
