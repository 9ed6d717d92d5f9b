"""The model before any training, measured on selection rows: once, and cached for later searches over the same model and rows."""

import hashlib
from pathlib import Path

from pydantic import BaseModel

from beear.cluster.scoring import subject_of
from beear.cluster.tasks import run_tasks
from beear.engine.session import Training
from beear.evaluation import resistance_scale
from beear.evaluation.selection import SelectionMeasure
from beear.parallel.replicated import Single
from beear.run.identity import run_identity
from beear.run.result_cache import once
from beear.run.stages import Placed
from beear.testbed.store import cache_root


class Baseline(BaseModel):
    """Selection numbers of the model before any training."""

    selection: dict[str, float]


def baseline(placed: Placed, training: Training) -> Baseline:
    """Return the numbers, from the cache where this model was measured on these rows by this code before."""
    return once(
        _cached(placed, training),
        Baseline,
        lambda: Baseline(selection=run_tasks([(measured, (training,))], placed.reservation)[0]),
    )


def measured(training: Training) -> dict[str, float]:
    """Measure in this process, without optimizer or gradients, as the exported files are measured."""
    config = training.config
    subject = subject_of(config, training.facts)
    measure = SelectionMeasure(
        subject.model,
        subject.tokenizer,
        training.selection,
        training.anchor_selection,
        config,
        training.hit,
        Single(subject.device),
        training.probes,
        subject.compute,
        training.resists,
    )
    return measure()


def _cached(placed: Placed, training: Training) -> Path:
    """Return the file: the identity of a run without what is trained and how."""
    config, checked = training.config, placed.checked
    values = {name: held for name, held in config.values.items() if name not in ("method", "adapter")}
    scale = resistance_scale.load().model_dump_json() if training.resists else ""
    key = run_identity(
        values,
        config.evaluate.keywords,
        config.model.chat_template,
        checked.facts,
        list(checked.data.digests.values()),
        f"baseline {bool(training.probes)} {scale}",
    )
    folder = cache_root() / "baselines"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
