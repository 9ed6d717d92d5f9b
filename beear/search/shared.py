"""What all trials of a search have in common, and one trial's training made from it. Picklable."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from beear.cluster.training_worker import WorkerSpec
from beear.config.build import build, flatten
from beear.config.fields import leaves
from beear.config.schema import RunConfig
from beear.evaluation.trials import Yardstick
from beear.methods.configuration import resolved, run_config
from beear.run.stages import Placed


@dataclass(frozen=True)
class Shared:
    """``placed`` is the run that trials vary; ``folder`` is where they keep what they resume from.

    ``probes``: whether trials measure under the known triggers; else they measure entrapment resistance.
    """

    placed: Placed
    yardstick: Yardstick
    folder: str
    probes: bool

    def spec(self, settings: Mapping[str, Any]) -> WorkerSpec:
        """Return what a trial of ``settings`` (by dotted field) trains with."""
        checked = self.placed.checked
        # A setting may be auto: the model decides it, as it does for the main command.
        config, _ = resolved(with_settings(checked.config.values, settings), checked.facts)
        key = json.dumps([checked.identity, sorted(settings.items())], default=str)
        varied = replace(checked, config=config, identity=hashlib.sha256(key.encode()).hexdigest())
        spec = replace(self.placed, checked=varied).worker_spec()
        training = replace(spec.training, probes=spec.training.probes if self.probes else [], resists=not self.probes)
        return replace(spec, training=training)

    def storage(self, trial: str) -> Path:
        """Return the folder of a trial that is a Ray Train run of its own."""
        return run_folder(Path(self.folder), trial)


def run_folder(folder: Path, trial: str = "") -> Path:
    """Return where a trial that is a Ray Train run of its own keeps what it resumes from; without one, where all do."""
    return folder / "runs" / trial


def with_settings(values: Mapping[str, Any], settings: Mapping[str, Any]) -> RunConfig:
    """Return the configuration ``values`` (plain data) with a trial's settings (by dotted field).

    Raises:
        UserError: a setting that its field does not take.
    """
    flat = flatten({name: held for name, held in values.items() if name != "search"}, leaves(run_config()))
    return build(run_config(), {**flat, **settings}, dict.fromkeys(settings, "search.space: "))
