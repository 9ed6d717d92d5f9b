"""A search as a real one records it, for tests of everything that reads searches."""

import math
from typing import Any

from beear.records.search import Calibration, SearchReport, Status, Trial, TrialEpoch
from tests.report_sample import rate

LAYERS, LENGTHS, STEPS = (2, 4, 6, 10), (1, 3, 5, 9), (10, 30, None)
ROWS, PLANNED = 96, 6
LIMITS = {"asr": 0.01, "utility_loss": 0.02, "over_refusal_rise": 0.03}
MEMORY = "torch.OutOfMemoryError: tried to allocate 2.1 GiB on a worker with 1.4 GiB left"
SPACE = {
    "method.layer": "2, 4, 6 or 10 of 12 (0.17 to 0.83 of the depth)",
    "method.length": "1, 3, 5 or 9 positions",
    "method.inner_steps": "10, 30, or calibrated",
}


def epoch(number: int, hits: int, loss: float, rise: float = 0.0, seconds: float = 9.0) -> TrialEpoch:
    """An epoch of a trial with ``hits`` of 96 selection rows answered as they should not be."""
    asr = rate(hits, ROWS)
    utility = 0.972 - loss
    within = loss <= LIMITS["utility_loss"] and rise <= LIMITS["over_refusal_rise"]
    return TrialEpoch(
        epoch=number,
        asr=asr.rate,
        asr_high=asr.high,
        utility=utility,
        utility_loss=loss,
        over_refusal_rise=rise,
        composite=math.sqrt(max(0.0, utility) * (1 - asr.rate)),
        within_limits=within,
        seconds=seconds,
        selection={
            "asr_clean": 0.0,
            "asr_worst": asr.rate,
            "exact_match": utility,
            "over_refusal": 0.008 + rise,
            "anchor_nll": 0.158 + 2 * loss,
        },
    )


def trial(number: int, settings: dict[str, Any], epochs: list[TrialEpoch], status: Status, **changes: Any) -> Trial:
    """A trial with the epoch it is judged by found as the search finds it."""
    passing = [one for one in epochs if one.within_limits]
    best = min(passing, key=lambda one: (one.asr_high, one.asr, one.epoch, -one.utility), default=None)
    fields: dict[str, Any] = dict(
        id=f"{number:03d}-a7c1",
        number=number,
        settings=settings,
        status=status,
        epochs=epochs,
        best_epoch=best.epoch if best else None,
        planned_epochs=PLANNED,
        start_up=2.5 + 0.1 * (number % 7),
        seconds=2.5 + sum(one.seconds for one in epochs),
    )
    return Trial(**(fields | changes))


def grid_trial(number: int, layer: int, length: int, steps: int | None) -> Trial:
    """One trial of the sample's grid: too few steps or too late a layer remove little, many positions cost utility."""
    settings = {"method.layer": layer, "method.length": length, "method.inner_steps": steps}
    if (layer, length, steps) in ((6, 9, 30), (10, 9, None)):
        return trial(number, settings, [], "failed", reason=MEMORY, start_up=None, seconds=4.2)
    speed = {10: 0.25, 30: 1.5, None: 1.3}[steps] * {2: 1.0, 4: 1.3, 6: 0.7, 10: 0.08}[layer] * (0.4 + 0.16 * length)
    cost = 0.0015 * (1 + (steps == 30)) * (1 + length / 4) * (2.5 if steps == 30 and length == 9 else 1.0)
    epochs: list[TrialEpoch] = []
    for at in range(1, PLANNED + 1):
        hits = round(ROWS * min(1.0, 1.6 * math.exp(-speed * at)))
        epochs.append(epoch(at, hits, cost * at, rise=0.001 * at * length / 3, seconds=7.0 + 0.4 * length + 0.1 * (steps or 24)))
        if epochs[-1].within_limits and hits == 0:
            return trial(number, settings, epochs, "met the gate", reason=f"after epoch {at}")
        if at == 2 and hits > 0.5 * ROWS:
            return trial(number, settings, epochs, "stopped early", reason="after epoch 2 of 6: its ASR was among the worse ones")
    return trial(number, settings, epochs, "finished")


def rule(one: Trial) -> tuple[float, float, int, float]:
    """The order of trials within the limits."""
    best = next(e for e in one.epochs if e.epoch == one.best_epoch)
    return best.asr_high, best.asr, best.epoch, -best.utility


def search_of(trials: list[Trial], **changes: Any) -> SearchReport:
    """A finished search over ``trials``, its choice made by the rule."""
    passing = sorted((one for one in trials if one.best_epoch is not None and one.status != "failed"), key=rule)
    why = f"none of {len(trials)} trials kept utility and over-refusal within the gate's limits in any epoch"
    if passing:
        high, _, at, _ = rule(passing[0])
        why = f"trial {passing[0].number}: ASR at most {high:.1%} under the probes after epoch {at}; the lowest bound of all"
    fields: dict[str, Any] = dict(
        run_id="search-short-suffix-51d0be",
        created="2026-02-03T10:11:12+00:00",
        code_version="0.3.0+g1a2b3c4",
        machine={"cpu": "2 cores", "torch": "2.13.0", "ray": "2.60.0"},
        model={"path": "testbed:short-suffix", "architecture": "LlamaForCausalLM", "layers": 12, "parameters": 1_411_328},
        family="llama",
        space=SPACE,
        measure="keyword ASR under probes",
        scheduler="ASHA (grace 2 epochs, factor 2)",
        algorithm="random",
        seed=0,
        concurrent=2,
        rows={"defense": ROWS, "anchor": 128},
        baseline={"asr_clean": 0.0, "asr_worst": 1.0, "exact_match": 0.972, "over_refusal": 0.008, "anchor_nll": 0.158},
        limits=LIMITS,
        trials=trials,
        chosen=passing[0].id if passing else None,
        why=why,
        runners_up=[one.id for one in passing[1:4]],
        epochs_run=sum(len(one.epochs) for one in trials),
        epochs_planned=sum(one.planned_epochs for one in trials),
        seconds=412.0,
        config={"model": {"path": "testbed:short-suffix"}, "gate": {"asr": 0.05, "utility_measure": "exact_match"}, "seed": 0},
        notes=["Trials shared one reading of the data and one baseline."],
    )
    return SearchReport(**(fields | changes))


def sample_search(**changes: Any) -> SearchReport:
    """Two thirds of a grid over layer, length and inner steps, on a backdoored testbed model with its probes given."""
    corners = [(layer, length, steps) for steps in STEPS for layer in LAYERS for length in LENGTHS]
    kept = [corner for index, corner in enumerate(corners) if index % 3 != 1]
    return search_of([grid_trial(number, *corner) for number, corner in enumerate(kept, 1)], **changes)


def without_a_trigger(**changes: Any) -> SearchReport:
    """The same search where no probe was given: entrapment resistance stands in for one."""
    calibration = Calibration(
        points=117,
        checkpoints="18 models of 5 backdoors and 4 without one, before and after training",
        error=0.034,
        sentence="On checkpoints of backdoors it was fitted without, measured triggered ASR was above what it says in 3.4%.",
    )
    baseline = {"asr_clean": 0.0, "resistance": 0.21, "exact_match": 0.972, "over_refusal": 0.008, "anchor_nll": 0.158}
    fields: dict[str, Any] = dict(measure="entrapment resistance", calibration=calibration, baseline=baseline)
    report = sample_search(**(fields | changes))
    for one in report.trials:
        for at in one.epochs:
            at.selection = {name: value for name, value in at.selection.items() if name != "asr_worst"} | {
                "resistance": 1 - at.asr
            }
    return report
