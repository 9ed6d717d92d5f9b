"""Sanitise one model: measure it, remove what entrapment finds, measure the files again, decide, register.

    python pipelines/sanitize.py [--config run.yaml] [--section.field value ...] [--dry-run] [--fresh] [--verbose]

With no arguments it works on the built-in backdoored model. Exit codes: 0 done, gate passed; 1 crash; 2 the input;
3 done, gate refused or inconclusive; 130 interrupted, resumable.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from beear.config.cli import parse  # noqa: E402
from beear.config.entry import run_entry  # noqa: E402
from beear.methods.configuration import run_config  # noqa: E402


def main() -> int:
    """Parse, build, run."""
    asked, flags = parse(run_config(), sys.argv[1:], __doc__ or "")
    from beear.cluster.connection import RaySession
    from beear.commands.sanitize import sanitize

    with RaySession(asked.parallel, flags.verbose) as session:
        return sanitize(asked, flags, session)


if __name__ == "__main__":
    run_entry(main)
