"""The process that reads a stranger's weights: shuts itself in, converts one file, and says how it went.

It is started by :mod:`beear.models.convert.process`, reads its job as JSON from stdin and writes two JSON lines to stdout:
how it is shut in, before the file is opened, and what came of it.
"""

import json
import sys
from pathlib import Path
from typing import Any

from beear.errors import UserError
from beear.models.convert import confine

# What torch and the system say when memory is refused.
NO_MEMORY = ("allocate memory", "not enough memory", "bad_alloc", "Cannot allocate")


def main() -> None:
    """Do the job that stdin describes."""
    job = json.load(sys.stdin)
    confine.die_with_parent()
    # Before a library starts threads: a process with several can have no network of its own.
    network = confine.own_network()
    convert = _prepared(job)
    calls = confine.refuse_calls()
    confine.limit(job["memory"], job["written"])
    _say({"network": network or calls, "programs": calls})
    try:
        notes, left = convert()
        _say({"notes": notes, "left": left})
    except MemoryError:
        _say({"memory": True})
    # A broken file fails in as many ways as torch and the library have.
    except Exception as error:
        said = " ".join(str(error).split())
        if any(words in said for words in NO_MEMORY):
            _say({"memory": True})
        else:
            _say({"error": said} if isinstance(error, UserError) else {"broken": f"{type(error).__name__}: {said[:300]}"})


def _prepared(job: dict[str, Any]) -> Any:
    """Import what the job needs and return what does it."""
    source, target = Path(job["source"]), Path(job["target"])
    if job["kind"] == "gguf":
        from beear.models.convert import gguf_file

        return lambda: gguf_file.convert(source, target, job["dtype"])
    from beear.models.convert import pickles

    return lambda: pickles.convert(source, target, job["tied"])


def _say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)
