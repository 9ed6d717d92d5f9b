"""A search's charts as positions: layer × length map, ASR by epoch, cost against result. The template draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from beear.records import display
from beear.records.display import BLUE, ORANGE, VERMILLION, Series
from beear.records.search import SearchReport, Trial, TrialEpoch
from beear.report.charts import MARKERS, Chart, Tick, chart
from beear.report.search_text import as_it_came, broken, describe, in_nats, in_order, points, setting_text, shown_epoch

LEFT, TOP, FOOT, CELL_HEIGHT = 46.0, 22.0, 38.0, 50.0
NARROWEST, WIDEST, FRAME = 62.0, 110.0, 420.0
BOUNDS = (0.05, 0.10, 0.25, 0.50, 0.75)
MOST_PANELS, GROUPS = 6, 4
EPOCHS = "epochs run"
_ENDS = {"finished": "circle", "stopped early": "square", "met the gate": "diamond", "failed": "cross"}
_LOSS_COLOURS = (BLUE, ORANGE, VERMILLION)

Kind = Literal["within", "broken", "failed", "unrun", "untried"]
Role = Literal["chosen", "runner-up", "other"]


@dataclass(frozen=True)
class Box:
    """One cell of the map: its corner, what happened there, its lines of text and all of it as one sentence.

    ``shade`` 0 to 5 says between which :data:`BOUNDS` the ASR bound lies.
    """

    x: float
    y: float
    kind: Kind
    lines: list[str]
    sentence: str
    shade: int = 0
    chosen: bool = False


@dataclass(frozen=True)
class Panel:
    """The map for one value (or range) of the inner steps; all lengths in drawing units."""

    name: str
    width: float
    height: float
    cell: float
    columns: list[Tick]
    rows: list[Tick]
    boxes: list[Box]


@dataclass(frozen=True)
class Mark:
    """How one trial is drawn: its part in the search, the sign at its last point, its numbers in a sentence."""

    role: Role
    sign: str
    sentence: str
    colour: int = 0


@dataclass(frozen=True)
class Sign:
    """A sign of a chart in its legend."""

    shape: str
    text: str
    colour: int = 0


@dataclass(frozen=True)
class TrialChart:
    """A laid-out chart with a series for each trial, the marks of those series, and what its signs mean."""

    chart: Chart
    marks: list[Mark]
    signs: list[Sign]


def heat_map(report: SearchReport) -> list[Panel]:
    """Return a panel for each value of the inner steps, ranges of them where there are many.

    Empty unless layer and length both vary.
    """
    layer, length, inner = (_field(report.trials, name) for name in ("layer", "length", "inner_steps"))
    if layer is None or length is None:
        return []
    trials = [trial for trial in report.trials if layer in trial.settings and length in trial.settings]
    rows, columns = _values(trials, layer), _values(trials, length)
    if len(rows) < 2 or len(columns) < 2:
        return []
    made = []
    for name, group in _groups(trials, inner):
        cells: dict[tuple[str, str], list[Trial]] = {}
        for trial in group:
            at = (setting_text(layer, trial.settings[layer]), setting_text(length, trial.settings[length]))
            cells.setdefault(at, []).append(trial)
        made.append(_panel(report, name, rows, columns, cells))
    return made


def _panel(
    report: SearchReport, name: str, rows: list[str], columns: list[str], cells: dict[tuple[str, str], list[Trial]]
) -> Panel:
    cell = min(WIDEST, max(NARROWEST, (FRAME - LEFT - 4) / len(columns)))
    boxes = [
        _box(report, cells.get((row, column), []), LEFT + cell * j, TOP + CELL_HEIGHT * i, f"layer {row}, length {column}")
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]
    return Panel(
        name, max(FRAME, LEFT + cell * len(columns) + 4), TOP + CELL_HEIGHT * len(rows) + FOOT, cell,
        [Tick(LEFT + cell * (j + 0.5), _cut(text, 9)) for j, text in enumerate(columns)],
        [Tick(TOP + CELL_HEIGHT * (i + 0.5), _cut(text, 6)) for i, text in enumerate(rows)], boxes,
    )  # fmt: skip


def _box(report: SearchReport, found: list[Trial], x: float, y: float, where: str) -> Box:
    if not found:
        return Box(x, y, "untried", ["not tried"], f"{where}: not tried")
    best = in_order(found, _first(report))[0]
    epoch, failed = shown_epoch(best), best.status == "failed"
    if epoch is None:
        lines = ["✕ failed"] if failed else ["no epoch"]
        return Box(x, y, "failed" if failed else "unrun", lines, f"{where}: {_sentence(report, best)}")
    lines = [display.percent(epoch.asr_high), f"epoch {epoch.epoch}"]
    kind: Kind = "failed" if failed else "within" if epoch.within_limits else "broken"
    if kind != "within":
        wrong = broken(report, epoch)
        lines.append("✕ failed" if failed else f"✕ {wrong[0]}" if len(wrong) == 1 else "✕ limits")
    if best.id == report.chosen:
        lines.append("chosen")
    of = f"; the best of {len(found)} trials here" if len(found) > 1 else ""
    sentence = f"{where}: {_sentence(report, best)}{of}"
    return Box(x, y, kind, lines, sentence, _shade(epoch.asr_high), best.id == report.chosen)


def asr_by_epoch(report: SearchReport) -> TrialChart | None:
    """Return every trial's ASR by epoch: a line ends where its trial ended. None where no epoch was run."""
    trials = [trial for trial in _drawn_last(report) if trial.epochs]
    if not trials:
        return None
    series = [Series("", [e.epoch for e in trial.epochs], [e.asr for e in trial.epochs]) for trial in trials]
    laid = chart("ASR by epoch", "epoch", "ASR", series, note="A line for each trial; it ends where the trial ended.",
                 y_range=(-0.03, 1.03), rules=_rules(report, "asr", "successful up to"))  # fmt: skip
    marks = [Mark(_role(report, one), _ENDS.get(one.status, "triangle"), _sentence(report, one)) for one in trials]
    used = {mark.sign for mark in marks}
    meaning = {shape: status for status, shape in _ENDS.items()} | {"triangle": "not ended"}
    return TrialChart(laid, marks, [Sign(shape, text) for shape, text in meaning.items() if shape in used])


def cost_against_result(report: SearchReport) -> TrialChart | None:
    """Return what each trial cost against its ASR bound, its utility loss by colour and shape; None without epochs."""
    found = [(trial, epoch) for trial in _drawn_last(report) if (epoch := shown_epoch(trial))]
    if not found:
        return None
    limit = report.limits.get("utility_loss")
    label, costs = _costs([trial for trial, _ in found])
    series = [Series("", [cost], [epoch.asr_high]) for cost, (_, epoch) in zip(costs, found, strict=True)]
    laid = chart("Cost against result", label, "ASR at most", series, note="A point for each trial; down and left is better.",
                 y_range=(-0.03, 1.03), rules=_rules(report, "asr_high", "limit"), scatter=label != EPOCHS)  # fmt: skip
    marks = []
    for trial, epoch in found:
        step = _loss_step(epoch.utility_loss, limit)
        marks.append(Mark(_role(report, trial), MARKERS[step], _sentence(report, trial), _LOSS_COLOURS[step]))
    return TrialChart(laid, marks, _loss_signs(limit, in_nats(report)))


def _loss_step(loss: float, limit: float | None) -> int:
    """Return 0 for a utility loss up to half its limit (or without one), 1 up to the limit, 2 beyond it."""
    if limit is None:
        return 0
    return 0 if loss <= limit / 2 else 1 if loss <= limit else 2


def _loss_signs(limit: float | None, nats: bool) -> list[Sign]:
    if limit is None:
        return [Sign(MARKERS[0], "a trial (no limit on utility loss was recorded)", _LOSS_COLOURS[0])]
    half, whole = (points(value, nats).removeprefix("+") for value in (limit / 2, limit))
    texts = (f"utility loss up to {half}", f"up to {whole}", "above")
    return [Sign(*one) for one in zip(MARKERS, texts, _LOSS_COLOURS, strict=False)]


def _costs(trials: list[Trial]) -> tuple[str, list[float]]:
    """Return the axis label and each trial's cost: time where it was recorded, else epochs."""
    if any(trial.seconds <= 0 for trial in trials):
        return EPOCHS, [float(len(trial.epochs)) for trial in trials]
    most = max(trial.seconds for trial in trials)
    unit, size = ("hours", 3600.0) if most >= 7200 else ("minutes", 60.0) if most >= 120 else ("seconds", 1.0)
    return f"trial time, {unit}", [trial.seconds / size for trial in trials]


def _rules(report: SearchReport, field: str, limit: str) -> list[tuple[float, str]]:
    """What ``field`` should be at most, and what it was as the model came, where known."""
    wanted, came = report.limits.get(field), as_it_came(report).get(field)
    rules = [(wanted, f"{limit} {display.percent(wanted)}")] if wanted is not None else []
    return rules + ([(came, f"as it came {display.percent(came)}")] if came is not None and math.isfinite(came) else [])


def _first(report: SearchReport) -> list[str]:
    return [name for name in (report.chosen, *report.runners_up) if name is not None]


def _role(report: SearchReport, trial: Trial) -> Role:
    return "chosen" if trial.id == report.chosen else "runner-up" if trial.id in report.runners_up else "other"


def _drawn_last(report: SearchReport) -> list[Trial]:
    """Trials in drawing order: the chosen one on top of its runners-up, these on top of all others."""
    order = {"other": 0, "runner-up": 1, "chosen": 2}
    return sorted(report.trials, key=lambda trial: order[_role(report, trial)])


def _sentence(report: SearchReport, trial: Trial) -> str:
    epoch: TrialEpoch | None = shown_epoch(trial)
    role = _role(report, trial)
    name = f"trial {trial.number}" + (f", {role}" if role != "other" else "") + f" ({describe(trial.settings)})"
    ran = f"{trial.status} after {len(trial.epochs)} of {trial.planned_epochs} epochs"
    if epoch is None:
        return f"{name}: {ran}" + (f", {trial.reason}" if trial.reason else "")
    wrong = (
        "" if epoch.within_limits else f", outside the limits ({', '.join(broken(report, epoch)) or 'which was not recorded'})"
    )
    return (
        f"{name}: ASR {display.percent(epoch.asr)}, at most {display.percent(epoch.asr_high)}, at epoch {epoch.epoch}, "
        f"utility loss {points(epoch.utility_loss, in_nats(report))}{wrong}; {ran}"
    )


def _field(trials: Sequence[Trial], name: str) -> str | None:
    """Return the dotted field that ends in ``name``."""
    fields = dict.fromkeys(field for trial in trials for field in trial.settings)
    return next((field for field in fields if field.rpartition(".")[2] == name), None)


def _values(trials: Sequence[Trial], field: str) -> list[str]:
    """Return a field's values as text: numbers in order, then the rest."""
    found = {setting_text(field, trial.settings.get(field)): trial.settings.get(field) for trial in trials}
    return sorted(found, key=lambda text: _order(found[text]))


def _order(value: Any) -> tuple[int, float, str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def _groups(trials: list[Trial], inner: str | None) -> list[tuple[str, list[Trial]]]:
    """Return (name, trials) by the value of the inner steps, by ranges of it where there are too many to look at."""
    if inner is None:
        return [("", trials)]
    by_value: dict[str, list[Trial]] = {text: [] for text in _values(trials, inner)}
    for trial in trials:
        by_value[setting_text(inner, trial.settings.get(inner))].append(trial)
    counted = [text for text in by_value if _is_number(text)]
    size = 1 if len(by_value) <= MOST_PANELS else math.ceil(len(counted) / GROUPS)
    parts = [counted[start : start + size] for start in range(0, len(counted), size or 1)]
    parts += [[text] for text in by_value if text not in counted]
    return [
        (f"inner steps {part[0]}" + (f" to {part[-1]}" if len(part) > 1 else ""), [t for text in part for t in by_value[text]])
        for part in parts
    ]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _shade(value: float) -> int:
    return sum(value > bound for bound in BOUNDS) if math.isfinite(value) else len(BOUNDS)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
