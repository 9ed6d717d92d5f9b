"""``python -m beear.registry OUT_DIR``: register a finished output folder, now or again.

The address comes from MLFLOW_TRACKING_URI, else from report.json (which holds no credentials).
"""

import os
import sys

from beear.errors import UserError
from beear.registry.check import check, resolve_uri
from beear.registry.register import RegistrationPending, register_folder, tracked_at
from beear.report.write import read


def main(arguments: list[str]) -> int:
    """Register the folder that the one argument names; return the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m beear.registry OUT_DIR", file=sys.stderr)
        return 2
    try:
        print(_register(os.path.abspath(arguments[0])))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except RegistrationPending as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _register(folder: str) -> str:
    uri = resolve_uri(os.environ.get("MLFLOW_TRACKING_URI") or tracked_at(read(folder)), folder)
    check(uri)
    return register_folder(folder, uri)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
