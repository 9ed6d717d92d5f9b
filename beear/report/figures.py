"""Which charts a report has: report in, laid-out charts out."""

from collections.abc import Iterable

from beear.evaluation.measures.table import measures_of
from beear.records.display import BLUE, VERMILLION, Figure, Series
from beear.records.report import EpochRecord, InnerCurve, Report
from beear.report.charts import Chart, chart


def figures(report: Report) -> list[Chart]:
    """Return every chart the report has the numbers for, in reading order."""
    found = [
        _asr_by_epoch(report.epochs),
        _losses(report.epochs),
        *_inner_loops(report.epochs),
        *map(_laid_out, (figure for one in measures_of(report) for figure in one.figures(report))),
        _drift(report),
    ]
    return [one for one in found if one is not None]


def _by_epoch(epochs: list[EpochRecord], keys: Iterable[str], part: str) -> list[Series]:
    made = []
    for index, key in enumerate(keys):
        pairs = [(record.epoch, getattr(record, part)[key]) for record in epochs if key in getattr(record, part)]
        made.append(Series(key.replace("_", " "), [x for x, _ in pairs], [y for _, y in pairs], index % 6, index % 2 == 1))
    return made


def _keys(epochs: list[EpochRecord], part: str) -> list[str]:
    return list(dict.fromkeys(key for record in epochs for key in getattr(record, part)))


def _asr_by_epoch(epochs: list[EpochRecord]) -> Chart | None:
    shares = [key for key in _keys(epochs, "selection") if "asr" in key.lower()]
    series = _by_epoch(epochs, shares, "selection")
    if not series:
        return None
    return chart("ASR by epoch", "epoch", "share of rows", series, note="Measured on selection rows.", y_range=(-0.03, 1.03))


def _losses(epochs: list[EpochRecord]) -> Chart | None:
    # The gradient norm is logged beside the losses, in a unit of its own.
    series = _by_epoch(epochs, [key for key in _keys(epochs, "losses") if key != "gradient_norm"], "losses")
    if not series:
        return None
    return chart("Losses by epoch", "epoch", "nats", series, note="Means over each epoch's removal steps.")


def _inner_loops(epochs: list[EpochRecord]) -> list[Chart]:
    curves = [curve for record in epochs for curve in record.inner]
    return [_inner_loop(curve) for curve in curves]


def _inner_loop(curve: InnerCurve) -> Chart:
    # Steps count from 1, as crossing_step does.
    steps = range(1, len(curve.loss_unwanted) + 1)
    crossed = curve.crossing_step is not None
    note = f"Crosses at step {curve.crossing_step}." if crossed else "Does not cross within its steps."
    if not crossed and curve.epoch == 1:
        note = "Never crosses: the attack did not find the behaviour."
    return chart(
        f"Inner loop, epoch {curve.epoch}, {curve.placement}", "inner step", "CE, nats",
        [Series("unwanted answer", steps, curve.loss_unwanted, VERMILLION),
         Series("safe answer", steps, curve.loss_safe, BLUE, dashed=True)],
        note=note, marks=[(curve.crossing_step, "crossing")] if curve.crossing_step is not None else [],
    )  # fmt: skip


def _laid_out(figure: Figure) -> Chart:
    return chart(figure.title, figure.x_label, figure.y_label, figure.series, note=figure.note, rules=figure.rules)


def _drift(report: Report) -> Chart | None:
    drift = report.drift
    if drift is None or not any(drift.pca.values()):
        return None
    # One colour and shape for a group; hollow before, filled after.
    groups = dict.fromkeys(_group(name) for name in drift.pca)
    colours = {group: index % 6 for index, group in enumerate(groups)}
    series = [
        Series(name, [x for x, _ in points], [y for _, y in points], colours[_group(name)], name.startswith("before/"))
        for name, points in drift.pca.items()
    ]
    note = (
        f"First two principal components after layer {drift.layer}; "
        f"mean cosine to the checkpoint as it came {drift.cosine_mean:.3f}."
    )
    return chart("Hidden states", "component 1", "component 2", series, note=note, scatter=True)


def _group(name: str) -> str:
    return name.partition("/")[2] or name
