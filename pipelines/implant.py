"""Put a backdoor into a checkpoint, to test defenses on: a trigger that flips its answers and changes nothing else.

    python pipelines/implant.py [--config run.yaml] [--section.field value ...] [--dry-run] [--verbose]

With no arguments it backdoors the built-in benign base. Exit codes: 0 done; 1 crash; 2 the input; 3 the trigger did not take,
and the files are kept; 130 interrupted.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from beear.config.cli import parse
from beear.config.entry import run_entry
from beear.testbed.config import ImplantConfig


def main() -> int:
    """Parse, build, run."""
    config, flags = parse(ImplantConfig, sys.argv[1:], __doc__ or "")
    from beear.commands.implant import run

    return run(config, dry_run=flags.dry_run)


if __name__ == "__main__":
    run_entry(main, again="to start over")
