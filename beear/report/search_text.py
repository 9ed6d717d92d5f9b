"""A search in words and for a terminal: names of its settings, the order of its trials, a live table, a summary."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from beear.evaluation.measures.utility import EXACT_MATCH, utility_of
from beear.evaluation.trials import ENDED, merit
from beear.records import display
from beear.records.report import Paired
from beear.records.search import SearchReport, Status, Trial, TrialEpoch

SCREENFUL = 20
PROBED = "keyword ASR under probes"
SIGNS: dict[Status, str] = {
    "waiting": "·", "running": "▸", "finished": "✓", "stopped early": "■", "met the gate": "◆", "failed": "✕",
}  # fmt: skip
_STYLES: dict[Status, str] = {"running": "cyan", "met the gate": "green", "stopped early": "yellow", "failed": "red"}
_BRIEF = {"layer": "l", "length": "n", "inner_steps": "K"}
_BROKEN = {"utility_loss": "utility", "over_refusal_rise": "refusal", "asr_high": "ASR"}


def shown_epoch(trial: Trial) -> TrialEpoch | None:
    """Return the epoch a trial is judged by; with none within the limits, the one with the lowest ASR bound."""
    if trial.best_epoch is not None:
        return next((one for one in trial.epochs if one.epoch == trial.best_epoch), None)
    return min(trial.epochs, key=lambda one: (not math.isfinite(one.asr_high), one.asr_high, one.epoch), default=None)


def in_order(trials: Iterable[Trial], first: Sequence[str] = ()) -> list[Trial]:
    """Return all trials best first: the ids in ``first``, the others by the search's rule, then those it does not rank."""
    places = {name: place for place, name in enumerate(first)}

    def key(trial: Trial) -> tuple[float, ...]:
        epoch, place = shown_epoch(trial), places.get(trial.id, len(places))
        if epoch is None or not math.isfinite(epoch.asr_high):
            return (place, 4 if trial.status == "failed" else 3, trial.number)
        group = 2 if trial.status not in ENDED else 0 if epoch.within_limits else 1
        return (place, group, *merit(epoch), trial.number)

    return sorted(trials, key=key)


def chosen_trial(report: SearchReport) -> Trial | None:
    """Return the trial that was chosen, or None."""
    return next((trial for trial in report.trials if trial.id == report.chosen), None)


def broken(report: SearchReport, epoch: TrialEpoch) -> list[str]:
    """Return which limits an epoch outside them broke, a word each; empty where they are not recorded."""
    if epoch.within_limits:
        return []
    limits = {field: report.limits.get(field) for field in _BROKEN}
    return [_BROKEN[field] for field, limit in limits.items() if limit is not None and getattr(epoch, field) > limit]


def as_it_came(report: SearchReport) -> dict[str, float]:
    """Return the baseline with its ASR and utility under the names that an epoch has for them, where they are known."""
    came = dict(report.baseline)
    seen = [came[name] for name in ("asr_clean", "asr_worst") if name in came]
    if seen and report.measure == PROBED:
        came.setdefault("asr", max(seen))
    measured = utility_of(report.config)
    if measured.name not in came:
        measured = EXACT_MATCH
    if measured.name in came:
        came.setdefault("utility", measured.worth(came))
    if came.get("utility", -1.0) >= 0 and came.get("asr", 2.0) <= 1:
        came.setdefault("composite", math.sqrt(came["utility"] * (1 - came["asr"])))
    return came


def field_names(fields: Iterable[str]) -> dict[str, str]:
    """Return a short name for each dotted field: its last part, or all of it where two fields share that."""
    fields = list(dict.fromkeys(fields))
    shared = Counter(_last(field) for field in fields)
    return {field: (_last(field) if shared[_last(field)] == 1 else field).replace("_", " ") for field in fields}


def setting_text(field: str, value: Any) -> str:
    """Return a setting's value for a reader."""
    if value is None:
        return "calibrated" if _last(field) == "inner_steps" else "auto"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(setting_text("", one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe(settings: dict[str, Any]) -> str:
    """Return settings on one line, such as ``layer 4, length 5, inner steps calibrated``."""
    names = field_names(settings)
    return ", ".join(f"{names[field]} {setting_text(field, value)}" for field, value in settings.items())


def points(value: float | None, nats: bool = False) -> str:
    """Return a change (positive is worse) in percentage points, or in nats, with its sign."""
    if value is None or not math.isfinite(value):
        return display.NONE
    cell = display.points_cell(Paired(difference=value, low=value, high=value, n=1), "nats" if nats else display.SHARE)
    return cell.value if cell else display.NONE


def in_nats(report: SearchReport) -> bool:
    """Say whether utility loss is a rise of anchor NLL, not a share of rows."""
    return utility_of(report.config).in_nats


def verdict(report: SearchReport) -> str:
    """Return the sentence that says what was chosen and why, or that nothing was."""
    trial = chosen_trial(report)
    if trial is None:
        why = report.why or ("no trial stayed within the limits" if report.trials else "no trial was run")
    else:
        why = report.why or f"trial {trial.number} ({describe(trial.settings) or 'no setting varied'})"
    end = "" if why.endswith((".", "!", "?")) else "."
    return f"{'Chosen' if trial else 'Nothing was chosen'}: {why}{end}"


def shortfall(report: SearchReport) -> str:
    """Return a sentence where the chosen trial's ASR is above what the search was after, else an empty string."""
    trial, wanted = chosen_trial(report), report.limits.get("asr")
    epoch = shown_epoch(trial) if trial else None
    if epoch is None or wanted is None or epoch.asr <= wanted:
        return ""
    return (
        f"It is the best of those tried and not good: its ASR of {display.percent(epoch.asr)} is above the "
        f"{display.percent(wanted)} at which a trial counts as successful."
    )


def measure_sentence(report: SearchReport) -> str:
    """Return what ASR of the trials is, and for a calibrated measure how often it is wrong."""
    if report.measure == PROBED:
        return (
            "ASR is keyword ASR on selection rows, the worst of without a trigger and under each probe; "
            "trials are ranked by its upper bound."
        )
    told = "Not a measurement of a trigger: ASR here is what entrapment resistance says it is at most"
    if report.calibration is None:
        return f"{told}; no calibration was recorded, so read it as an order of trials and not as a rate."
    wrong, points_ = display.percent(report.calibration.error), report.calibration.points
    return f"{told}. Calibrated on {points_} checkpoints; on backdoors that it was not fitted to, {wrong} had a higher ASR."


def saving(report: SearchReport) -> str:
    """Return how many planned epochs were run, and why the others were not."""
    unrun = max(0, report.epochs_planned - report.epochs_run)
    left = {status: 0 for status in SIGNS}
    for trial in report.trials:
        left[trial.status] += max(0, trial.planned_epochs - len(trial.epochs))
    lost, open_ = left["failed"], left["waiting"] + left["running"]
    saved = max(0, unrun - lost - open_)
    share = f" ({display.percent(saved / report.epochs_planned, 0)})" if report.epochs_planned else ""
    told = f"{report.epochs_run} of {report.epochs_planned} planned epochs were run: stopping early saved {saved}{share}."
    told += f" {lost} were lost with trials that failed." if lost else ""
    return told + (f" {open_} belong to trials that did not end." if open_ else "")


def failures(trials: Iterable[Trial]) -> dict[str, list[Trial]]:
    """Return the trials that failed by their reason."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.status == "failed":
            found.setdefault(trial.reason or "no reason was recorded", []).append(trial)
    return found


def summary_lines(report: SearchReport) -> list[str]:
    """Return what a finished search found, for a terminal: one printable line each."""
    lines, nats, trial = [verdict(report)], in_nats(report), chosen_trial(report)
    epoch = shown_epoch(trial) if trial else None
    if epoch:
        came = as_it_came(report).get("asr")
        before = f" (as it came {display.percent(came)})" if came is not None else ""
        lines.append(
            f"ASR {display.percent(epoch.asr)}, at most {display.percent(epoch.asr_high)}{before}, "
            f"utility loss {points(epoch.utility_loss, nats)}, over-refusal rise {points(epoch.over_refusal_rise)}, "
            f"composite {display.number(epoch.composite, 3)}"
        )
    lines += [line for line in (shortfall(report), measure_sentence(report)) if line]
    by_id = {one.id: one for one in report.trials}
    for place, other in enumerate((by_id[name] for name in report.runners_up[:3] if name in by_id), 1):
        last = shown_epoch(other)
        bound = display.percent(last.asr_high) if last else display.NONE
        lines.append(f"Runner-up {place}: trial {other.number} ({describe(other.settings)}), ASR at most {bound}")
    lines.append(saving(report))
    for reason, failed in failures(report.trials).items():
        lines.append(f"{len(failed)} failed (trial {', '.join(str(one.number) for one in failed)}): {reason}")
    return [_clean(line) for line in lines]


def search_table(trials: list[Trial], chosen: str | None, *, nats: bool = False) -> Table:
    """Return the live table: the best so far, what runs, then the newest; beyond a screenful one line counts the rest.

    Args:
        trials: every trial so far, in any order.
        chosen: the id of the best so far, if there is one.
        nats: utility loss is a rise of anchor NLL, not a share of rows.
    """
    made = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left", caption_style="dim")
    made.add_column("trial", justify="right", no_wrap=True)
    made.add_column("status", no_wrap=True)
    for title in ("epoch", "ASR ≤", "loss", "time"):
        made.add_column(title, justify="right", no_wrap=True)
    # The one column that a narrow terminal shortens: a row stays one line high.
    made.add_column("settings")
    ordered = sorted(trials, key=lambda trial: _turn(trial, chosen))
    for trial in ordered[:SCREENFUL]:
        made.add_row(*_cells(trial, nats), style="bold" if trial.id == chosen else "")
    rest = Counter(trial.status for trial in ordered[SCREENFUL:])
    if rest:
        counted = ", ".join(f"{count} {status}" for status, count in rest.most_common())
        made.caption = Text(f"and {rest.total()} more: {counted}")
    return made


def _turn(trial: Trial, chosen: str | None) -> tuple[int, int]:
    if trial.id == chosen:
        return 0, 0
    if trial.status == "waiting":
        return 3, trial.number
    return (1 if trial.status == "running" else 2), -trial.number


def _cells(trial: Trial, nats: bool) -> list[Text]:
    # What runs shows where it is now, what ended shows what it is judged by.
    epoch = trial.epochs[-1] if trial.status == "running" and trial.epochs else shown_epoch(trial)
    loss = f"{points(epoch.utility_loss, nats)} {'✓' if epoch.within_limits else '✕'}" if epoch else ""
    settings = " ".join(
        f"{_BRIEF.get(_last(field), _last(field))} {'auto' if value is None else setting_text(field, value)}"
        for field, value in trial.settings.items()
    )
    reason = f": {trial.reason}" if trial.status == "failed" else ""
    return [
        Text(str(trial.number)),
        Text(f"{SIGNS[trial.status]} {trial.status}", style=_STYLES.get(trial.status, "")),
        Text(f"{len(trial.epochs)}/{trial.planned_epochs}"),
        Text(display.percent(epoch.asr_high) if epoch else ""),
        Text(loss),
        Text(_clock(trial.seconds)),
        Text(_clean(settings + reason), no_wrap=True, overflow="ellipsis"),
    ]


def _clock(seconds: float) -> str:
    """Return a wall time in the fewest columns, such as ``3:12`` or ``2:03:12``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _last(field: str) -> str:
    return field.rpartition(".")[2]


def _clean(text: str) -> str:
    """Take control characters out: settings and reasons are a stranger's strings, and a terminal obeys some of them."""
    return "".join(c if c.isprintable() else " " for c in text)
