"""What all trials of a search have in common, and one trial's training made from it. Picklable."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from beear.cluster.connection import Plan
from beear.cluster.training_worker import WorkerSpec
from beear.config.build import build
from beear.config.fields import leaves
from beear.config.resolve import resolve
from beear.config.schema import RunConfig
from beear.config.yaml_file import flatten
from beear.evaluation.trials import Yardstick
from beear.run.prepare import Job


@dataclass(frozen=True)
class Shared:
    """``job`` is the checked run that trials vary; ``folder`` is where they keep what they go on from.

    ``probes``: whether trials measure under the known triggers; else they measure entrapment resistance.
    """

    job: Job
    plan: Plan
    yardstick: Yardstick
    folder: str
    probes: bool

    def spec(self, settings: Mapping[str, Any]) -> WorkerSpec:
        """Return what a trial of ``settings`` (by dotted field) trains with."""
        # A setting may be auto: left to the rules that fill in the main job's own.
        config, _ = resolve(with_settings(self.job.config, settings), self.job.facts)
        key = json.dumps([self.job.identity, sorted(settings.items())], default=str)
        job = replace(self.job, config=config, identity=hashlib.sha256(key.encode()).hexdigest())
        spec = job.worker_spec()
        training = replace(spec.training, probes=spec.training.probes if self.probes else [], resists=not self.probes)
        return replace(spec, training=training)

    def storage(self, trial: str) -> Path:
        """Return the folder of a trial that is a Ray Train run of its own."""
        return run_folder(Path(self.folder), trial)


def run_folder(folder: Path, trial: str = "") -> Path:
    """Return where a trial that is a Ray Train run of its own keeps what it goes on from; without one, where all do."""
    return folder / "runs" / trial


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return the run's configuration with a trial's settings.

    Raises:
        UserError: a setting that its field does not take.
    """
    values = flatten(config.model_dump(mode="json", exclude={"search"}), leaves(RunConfig))
    return build(RunConfig, {**values, **settings}, dict.fromkeys(settings, "search.space: "))
