"""The result of a search: its record, and the configuration that trains the chosen model again."""

from collections.abc import Mapping, Sequence

from beear.config.schema import GateConfig, RunConfig
from beear.config.search import SearchConfig
from beear.config.yaml_file import to_yaml
from beear.evaluation.measures.utility import utility_of
from beear.evaluation.trials import judged, ranked
from beear.records.redact import redact
from beear.records.search import Calibration, SearchReport, Trial
from beear.report.search_text import describe, points
from beear.run.build_report import origin
from beear.run.stages import Placed
from beear.search.shared import with_settings
from beear.search.space import Space

RUNNERS_UP = 5


def best_config(asked: RunConfig, trial: Trial, folder: str, by_probes: bool) -> RunConfig:
    """Return the configuration whose run ends where the trial was at its best epoch.

    The number of epochs that attack and that cool down is fixed, and there is no early stop.

    Raises:
        ValueError: the trial has no best epoch.
    """
    if trial.best_epoch is None:
        raise ValueError(f"trial {trial.number} has no epoch within the limits")
    until = [epoch for epoch in trial.epochs if epoch.epoch <= trial.best_epoch]
    fixed = {
        "method.epochs": trial.best_epoch,
        "method.cool_epochs": sum(epoch.cooled for epoch in until),
        "method.early_stop": False,
        "data.probes.chose_settings": by_probes,
        "output.dir": folder,
        "output.fresh": False,
    }
    return with_settings(asked.model_dump(mode="json"), {**trial.settings, **fixed})


def best_yaml(config: RunConfig, report: SearchReport) -> str:
    """Return best.yaml's text, without credentials."""
    return redact(f"# {report.why}\n# python pipelines/sanitize.py --config best.yaml\n{to_yaml(config)}")


def search_report(
    placed: Placed,
    search: SearchConfig,
    space: Space,
    trials: Sequence[Trial],
    baseline: Mapping[str, float],
    calibration: Calibration | None,
    concurrent: int,
    seconds: float,
) -> SearchReport:
    """Return the record of a finished search."""
    config, data, order = placed.checked.config, placed.data, ranked(trials)
    most = config.evaluate.selection_rows
    return SearchReport(
        **origin(placed),
        family=space.family,
        space=space.described(),
        measure="keyword ASR under probes" if calibration is None else "entrapment resistance",
        calibration=calibration,
        scheduler=search.scheduler,
        algorithm=search.algorithm,
        seed=config.seed,
        concurrent=concurrent,
        rows={"defense": len(data.selection[:most]), "anchor": len(data.anchor_selection[:most])},
        baseline=dict(baseline),
        limits=_limits(config.gate, search.stop_asr),
        trials=list(trials),
        chosen=order[0].id if order else None,
        why=_why(order, trials, calibration, utility_of(config.gate).in_nats),
        runners_up=[trial.id for trial in order[1 : 1 + RUNNERS_UP]],
        epochs_run=sum(len(trial.epochs) for trial in trials),
        epochs_planned=sum(trial.planned_epochs for trial in trials),
        seconds=round(seconds, 1),
        notes=list(placed.checked.facts.notes),
    )


def _limits(gate: GateConfig, stop_asr: float | None) -> dict[str, float]:
    """Return by an epoch's field what a chosen trial keeps, and the ASR at which one ends, if any does."""
    kept = {"utility_loss": gate.utility_loss, "over_refusal_rise": gate.over_refusal}
    return kept if stop_asr is None else {"asr": stop_asr, **kept}


def _why(order: Sequence[Trial], trials: Sequence[Trial], calibration: Calibration | None, nats: bool) -> str:
    if not order:
        return f"none of {len(trials)} trials kept utility and over-refusal within the gate's limits in any epoch"
    best = order[0]
    epoch = judged(best)
    source = "by entrapment resistance" if calibration else "under the probes"
    lost, more = points(epoch.utility_loss, nats), points(epoch.over_refusal_rise)
    return (
        f"trial {best.number} ({describe(best.settings)}): ASR at most {epoch.asr_high:.1%} {source} after epoch "
        f"{epoch.epoch}, utility loss {lost}, over-refusal {more}; the lowest bound, then the lowest ASR, then the earliest "
        f"epoch, then the highest utility of {len(order)} trials within the limits ({len(trials)} tried)"
    )
