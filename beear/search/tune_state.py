"""What Tune has written of an experiment: whether it can be taken up, and which of its trials have ended."""

import json
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

# What Tune takes an experiment up from, the trials' own first; each session writes files of its own, named by its time.
TRIALS, *OTHERS = ("experiment_state-*.json", "basic-variant-state-*.json", "search_gen_state-*.json")


def newest(folder: Path, pattern: str) -> Any:
    """Return what the newest file of a pattern holds, None where there is none or it was cut in two."""
    found = sorted(folder.glob(pattern))
    try:
        return json.loads(found[-1].read_text()) if found else None
    except (OSError, ValueError):
        return None


def whole(folder: Path) -> bool:
    """Say whether there is an experiment to take up: Tune itself would begin one without settings where its state is broken."""
    others = all(newest(folder, pattern) for pattern in OTHERS if any(folder.glob(pattern)))
    return bool(newest(folder, TRIALS)) and others and bool(tune.Tuner.can_restore(str(folder)))


def ended(folder: Path) -> set[str]:
    """Return the ids of the trials that have ended by what is written."""
    kept = [json.loads(trial) for trial, _ in (newest(folder, TRIALS) or {}).get("trial_data", [])]
    return {trial["trial_id"] for trial in kept if trial["status"] in (Trial.TERMINATED, Trial.ERROR)}
