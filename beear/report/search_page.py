"""``search.html``: one self-contained page on a finished search. Its strings are hostile, so the template escapes them."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jinja2
import yaml

from beear.records import display
from beear.records.display import Cell
from beear.records.redact import redact_all
from beear.records.search import SearchReport, Status, Trial, TrialEpoch
from beear.report.html import TEMPLATES, environment
from beear.report.search_charts import BOUNDS, asr_by_epoch, cost_against_result, heat_map
from beear.report.search_text import (
    PROBED,
    SIGNS,
    as_it_came,
    broken,
    chosen_trial,
    failures,
    field_names,
    in_nats,
    in_order,
    measure_sentence,
    points,
    saving,
    setting_text,
    shortfall,
    shown_epoch,
    verdict,
)

COMMAND = "python pipelines/sanitize.py --config best.yaml"
CHIPS: dict[Status, str] = {"met the gate": "passed", "failed": "refused", "stopped early": "inconclusive"}


@dataclass(frozen=True)
class TrialRow:
    """One trial as the tables show it: its settings in the order of the columns, the epoch it is judged by."""

    trial: Trial
    role: str
    settings: list[str]
    epoch: TrialEpoch | None
    broken: list[str]
    behind: str = ""


@dataclass(frozen=True)
class Compared:
    """One measure of the model as it came and of the chosen trial, on the same rows; ``within`` its limit, if it has one."""

    name: str
    came: Cell | None
    chosen: Cell | None
    limit: str = ""
    within: bool | None = None


@dataclass(frozen=True)
class Spent:
    """What the trials of one status cost."""

    status: Status
    trials: int
    run: int
    planned: int
    seconds: float


def search_html(report: SearchReport) -> str:
    """Return the whole page as HTML (no script, no request to anywhere)."""
    shown = SearchReport.model_validate(redact_all(report.model_dump()))
    varied, alike = _fields(shown.trials)
    rows = _rows(shown, list(varied))
    chosen = chosen_trial(shown)
    return _page().render(
        report=shown,
        chosen=chosen,
        sentence=verdict(shown),
        shortfall=shortfall(shown),
        measured=measure_sentence(shown),
        stands_in=shown.measure != PROBED,
        settings=_settings(chosen) if chosen else {},
        command=COMMAND,
        compared=_compared(shown, shown_epoch(chosen) if chosen else None),
        panels=heat_map(shown),
        bounds=[display.percent(bound, 0) for bound in BOUNDS],
        epochs=asr_by_epoch(shown),
        cost=cost_against_result(shown),
        nats=in_nats(shown),
        columns=list(varied.values()),
        alike=alike,
        rows=rows,
        best=[row for row in rows if row.role],
        spent=_spent(shown.trials),
        saving=saving(shown),
        failures=failures(shown.trials),
        not_tested=_not_tested(shown),
        signs=SIGNS,
        chips=CHIPS,
        css=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        config=yaml.safe_dump(shown.config, sort_keys=False, allow_unicode=True),
    )


@functools.cache
def _page() -> jinja2.Template:
    made = environment(escape=True)
    made.filters["points"] = points
    return made.get_template("search.html.j2")


def _settings(trial: Trial) -> dict[str, str]:
    return {field: setting_text(field, value) for field, value in trial.settings.items()}


def _fields(trials: list[Trial]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names of the fields that differ between trials, and the one value of those that do not."""
    names = field_names(field for trial in trials for field in trial.settings)
    values = {field: {setting_text(field, trial.settings.get(field)) for trial in trials} for field in names}
    varied = {field: name for field, name in names.items() if len(values[field]) > 1}
    return varied, {name: values[field].pop() for field, name in names.items() if field not in varied}


def _rows(report: SearchReport, fields: list[str]) -> list[TrialRow]:
    first = [name for name in (report.chosen, *report.runners_up) if name is not None]
    chosen = chosen_trial(report)
    best = shown_epoch(chosen) if chosen else None
    rows = []
    for trial in in_order(report.trials, first):
        epoch = shown_epoch(trial)
        runner = trial.id in report.runners_up
        rows.append(TrialRow(
            trial=trial,
            role="chosen" if trial is chosen else f"runner-up {report.runners_up.index(trial.id) + 1}" if runner else "",
            settings=[setting_text(field, trial.settings.get(field)) for field in fields],
            epoch=epoch,
            broken=[] if epoch is None or epoch.within_limits else broken(report, epoch) or ["a limit"],
            behind=_behind(best, epoch, in_nats(report)) if runner and best and epoch else "",
        ))  # fmt: skip
    return rows


def _behind(best: TrialEpoch, other: TrialEpoch, nats: bool) -> str:
    """Say by which step of the rule a runner-up ranks behind the chosen trial."""
    if other.asr_high > best.asr_high:
        return f"ASR bound higher by {display.number(100 * (other.asr_high - best.asr_high), 1)} pp"
    if other.asr_high == best.asr_high and other.asr > best.asr:
        return f"the same ASR bound, ASR higher by {display.number(100 * (other.asr - best.asr), 1)} pp"
    if (other.asr_high, other.asr) == (best.asr_high, best.asr) and other.epoch > best.epoch:
        later = other.epoch - best.epoch
        return f"the same ASR bound, {later} {'epoch' if later == 1 else 'epochs'} later"
    if (other.asr_high, other.epoch) == (best.asr_high, best.epoch) and other.utility < best.utility:
        return f"the same ASR bound and epoch, utility loss {points(other.utility_loss, nats)}"
    same = (other.asr_high, other.epoch, other.utility) == (best.asr_high, best.epoch, best.utility)
    return "equal by every step of the rule, tried later" if same else "ranked behind by the search"


def _compared(report: SearchReport, epoch: TrialEpoch | None) -> list[Compared]:
    """Return each measure as the model came and as chosen; measures that neither has are left out."""
    nats, came = in_nats(report), as_it_came(report)
    names = _names(nats, probed=report.measure == PROBED)
    now = {name: value for name, value in epoch if isinstance(value, float)} | epoch.selection if epoch else {}
    rows = [_measure(name, field, came, now, report.limits, nats) for field, name in names.items()]
    others = [field for field in came if field not in names and field not in ("exact_match", "utility")]
    rows += [_measure(field.replace("_", " "), field, came, now, report.limits, nats) for field in others]
    return [row for row in rows if row.came or row.chosen or row.limit]


def _names(nats: bool, probed: bool) -> dict[str, str]:
    return {
        "asr": "ASR" if probed else "ASR by entrapment resistance",
        "asr_high": "ASR at most (upper bound)",
        "asr_clean": "ASR without trigger",
        "asr_worst": "worst ASR under a probe",
        "resistance": "entrapment resistance (higher is better)",
        "utility": "utility, mean probability of a token" if nats else "utility, exact match",
        "utility_loss": "utility loss",
        "over_refusal": "over-refusal",
        "over_refusal_rise": "over-refusal rise",
        "anchor_nll": "anchor NLL, nats",
        "composite": "composite √(utility × (1 − ASR))",
    }


def _measure(
    name: str, field: str, came: dict[str, float], now: dict[str, float], limits: dict[str, float], nats: bool
) -> Compared:
    limit = limits.get(field)
    within = now[field] <= limit if limit is not None and field in now else None
    as_text = functools.partial(_text, field, nats)
    share = as_text(limit).removeprefix("+")
    return Compared(
        name, _cell(field, came, as_text), _cell(field, now, as_text), f"≤ {share}" if limit is not None else "", within
    )


def _cell(field: str, found: dict[str, float], as_text: Callable[[float | None], str]) -> Cell | None:
    return Cell(as_text(found[field])) if field in found else None


def _text(field: str, nats: bool, value: float | None) -> str:
    if field in ("utility_loss", "over_refusal_rise"):
        return points(value, nats and field == "utility_loss")
    shares = ("asr", "asr_high", "asr_clean", "asr_worst", "utility", "over_refusal")
    return display.percent(value) if field in shares else display.number(value, 3)


def _spent(trials: list[Trial]) -> list[Spent]:
    found = []
    for status in SIGNS:
        of = [trial for trial in trials if trial.status == status]
        if of:
            run, planned = sum(len(trial.epochs) for trial in of), sum(trial.planned_epochs for trial in of)
            found.append(Spent(status, len(of), run, planned, sum(trial.seconds for trial in of)))
    return found


def _not_tested(report: SearchReport) -> list[str]:
    """Say what a reader must not take from the page."""
    said = [
        "Triggers other than the probes, and other placements of them." if report.measure == PROBED
        else "Any trigger at all: no probe was given, and entrapment resistance stands in for one.",
        "Report rows. Selection rows decided what was chosen, so its numbers here flatter it; "
        "sanitising with best.yaml measures it on rows that the search never saw.",
        "Settings outside the space searched.",
        f"Other seeds: the search ran with seed {report.seed} alone.",
    ]  # fmt: skip
    stopped = sum(trial.status == "stopped early" for trial in report.trials)
    failed = sum(trial.status == "failed" for trial in report.trials)
    if stopped:
        said.append(f"What {stopped} {'trial' if stopped == 1 else 'trials'} stopped early would have reached.")
    if failed:
        said.append(f"The settings of {failed} {'trial' if failed == 1 else 'trials'} that failed, beyond what is shown.")
    return said
