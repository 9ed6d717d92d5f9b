"""Reads what Tune has written about an experiment: whether it can be resumed, and which of its trials have ended."""

import json
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

# The files that Tune resumes from, the trials' own first. Each session writes new ones, named by its start.
TRIALS, *OTHERS = ("experiment_state-*.json", "basic-variant-state-*.json", "search_gen_state-*.json")


def newest(folder: Path, pattern: str) -> Any:
    """Return the content of the newest file of a pattern, None where there is none or it is incomplete."""
    found = sorted(folder.glob(pattern))
    try:
        return json.loads(found[-1].read_text()) if found else None
    except (OSError, ValueError):
        return None


def whole(folder: Path) -> bool:
    """Say whether an experiment can be resumed. From a broken state Tune itself would start one without settings."""
    others = all(newest(folder, pattern) for pattern in OTHERS if any(folder.glob(pattern)))
    return bool(newest(folder, TRIALS)) and others and bool(tune.Tuner.can_restore(str(folder)))


def ended(folder: Path) -> set[str]:
    """Return the ids of the trials that are recorded as ended."""
    kept = [json.loads(trial) for trial, _ in (newest(folder, TRIALS) or {}).get("trial_data", [])]
    return {trial["trial_id"] for trial in kept if trial["status"] in (Trial.TERMINATED, Trial.ERROR)}
