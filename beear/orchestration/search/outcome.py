"""What a search comes to: its record, and the configuration that makes the chosen model again."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from beear.config.dump import to_yaml
from beear.config.schema import RunConfig
from beear.config.search import SearchConfig
from beear.config.space import Space
from beear.evaluation.trials import judged, ranked
from beear.orchestration.assemble import machine
from beear.orchestration.identity import code_version
from beear.orchestration.prepare import Job
from beear.orchestration.search.shared import with_settings
from beear.report.redact import redact
from beear.report.search_schema import Calibration, SearchReport, Trial

RUNNERS_UP = 5


def best_config(asked: RunConfig, trial: Trial, folder: str, by_probes: bool) -> RunConfig:
    """Return the configuration whose run ends as the trial stood at the epoch that it is judged by.

    The epochs are fixed by number: how many attacked and how many cooled down, with no early stop of their own.
    """
    assert trial.best_epoch is not None
    until = [epoch for epoch in trial.epochs if epoch.epoch <= trial.best_epoch]
    fixed = {
        "method.epochs": trial.best_epoch,
        "method.cool_epochs": sum(epoch.cooled for epoch in until),
        "method.early_stop": False,
        "data.probes.chose_settings": by_probes,
        "output.dir": folder,
        "output.fresh": False,
    }
    return with_settings(asked, {**trial.settings, **fixed})


def best_yaml(config: RunConfig, report: SearchReport) -> str:
    """Return best.yaml's text, without credentials."""
    return redact(f"# {report.why}\n# python pipelines/sanitize.py --config best.yaml\n{to_yaml(config)}")


def search_report(
    job: Job,
    search: SearchConfig,
    space: Space,
    trials: Sequence[Trial],
    baseline: Mapping[str, float],
    calibration: Calibration | None,
    concurrent: int,
    seconds: float,
) -> SearchReport:
    """Return the record of a finished search."""
    config, order = job.config, ranked(trials)
    data = job.data
    return SearchReport(
        run_id=job.identity,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        code_version=code_version(),
        machine=machine(),
        model=_model(job),
        family=space.family,
        space=space.described(),
        measure="keyword ASR under probes" if calibration is None else "entrapment resistance",
        calibration=calibration,
        scheduler=search.scheduler,
        algorithm=search.algorithm,
        seed=config.seed,
        concurrent=concurrent,
        rows={"defense": len(data.selection[: config.evaluate.selection_rows]), "anchor": _anchors(job)},
        baseline=dict(baseline),
        limits={
            "asr": search.stop_asr,
            "utility_loss": config.gate.utility_loss,
            "over_refusal_rise": config.gate.over_refusal,
        },
        trials=list(trials),
        chosen=order[0].id if order else None,
        why=_why(order, trials, calibration, config.gate.utility_measure == "nll"),
        runners_up=[trial.id for trial in order[1 : 1 + RUNNERS_UP]],
        epochs_run=sum(len(trial.epochs) for trial in trials),
        epochs_planned=sum(trial.planned_epochs for trial in trials),
        seconds=round(seconds, 1),
        config=config.model_dump(mode="json"),
        notes=list(job.facts.notes),
    )


def _anchors(job: Job) -> int:
    return len(job.data.anchor_selection[: job.config.evaluate.selection_rows])


def _model(job: Job) -> dict[str, Any]:
    facts = job.facts
    return {
        "path": job.asked,
        "architecture": facts.architecture,
        "layers": facts.layers,
        "parameters": facts.parameters,
        "digests": facts.digests,
    }


def _why(order: Sequence[Trial], trials: Sequence[Trial], calibration: Calibration | None, nats: bool) -> str:
    if not order:
        return f"none of {len(trials)} trials kept utility and over-refusal within the gate's limits in any epoch"
    best = order[0]
    epoch = judged(best)
    source = "by entrapment resistance" if calibration else "under the probes"
    lost, more = loss_words(epoch.utility_loss, nats), f"{100 * epoch.over_refusal_rise:+.1f} points"
    return (
        f"trial {best.number} ({settings_words(best.settings)}): ASR at most {epoch.asr_high:.1%} {source} after epoch "
        f"{epoch.epoch}, utility loss {lost}, over-refusal {more}; the lowest bound, then the earliest epoch, then the highest "
        f"utility of {len(order)} trials within the limits ({len(trials)} tried)"
    )


def loss_words(loss: float, nats: bool) -> str:
    """Return a utility loss with its unit."""
    return f"{loss:.3f} nats" if nats else f"{100 * loss:.1f} points"


def settings_words(settings: Mapping[str, Any]) -> str:
    """Return a trial's settings in a few words."""
    return ", ".join(f"{name.rpartition('.')[2]} {_value_words(value)}" for name, value in settings.items())


def _value_words(value: Any) -> str:
    if value is None:
        return "calibrated"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
