"""Search layer, length and inner steps for a model's family: trials stop early on ASR, the best settings become best.yaml.

    python pipelines/tune.py [--config run.yaml] [--section.field value ...] [--resume] [--dry-run] [--fresh] [--verbose]

With no arguments it works on the built-in backdoored model. Exit codes: 0 settings were chosen; 1 crash; 2 the input;
3 no trial kept ASR, utility and over-refusal within the gate's limits; 130 interrupted, resumable.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from beear.config.cli import parse  # noqa: E402
from beear.config.entry import run_entry  # noqa: E402
from beear.methods.configuration import tune_config  # noqa: E402


def main() -> int:
    """Parse, build, run."""
    asked, flags = parse(tune_config(), sys.argv[1:], __doc__ or "")
    from beear.cluster.connection import RaySession
    from beear.commands.tune import tune

    with RaySession(asked.parallel, flags.verbose) as session:
        return tune(asked, flags, session)


if __name__ == "__main__":
    run_entry(main)
