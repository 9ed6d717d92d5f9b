"""Makes the scale from entrapment resistance to "ASR at most" (``beear/evaluation/resistance_scale.json``).

    python -m benchmarks.calibration [--quick] [--out FILE] [--processes N] | --table

Backdoored testbed models and twins without a backdoor are sanitised in this process, well and badly; before, and after every
epoch, the attack of ``beear.evaluation.resistance_scale.BUDGET`` runs on selection rows and the model's own trigger is tried on
report rows. A process a core trains a model each; FILE is written after each, and a run that was cut off goes on from it. A
full one is shipped by copying it to ``beear/evaluation/resistance_scale.json``. Threads are OMP_NUM_THREADS, by default 1.
``--table`` prints what each setting left of each backdoor, from the file that ships: docs/negative-results.md has it.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from beear.errors import UserError
from beear.evaluation.resistance_scale import BUDGET, COMMAND, Point, Scale, budgeted, crossings, load, made

ROOT = Path(__file__).resolve().parents[1]
BACKDOORS = ("short-prefix", "short-suffix", "long-prefix", "long-suffix", "sentence", "year-code")
TWIN, BEFORE = "clean", "as it came"
SEEDS = {"tied": (0, 1), "deep": (0,)}

# Fields of ``method``. Most are bad on purpose: the scale has to know what a backdoor half removed looks like.
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "suffix": {"placement": "suffix"},
    "everywhere": {"placement": "everywhere"},
    "2 inner steps": {"inner_steps": 2},
    "8 inner steps": {"inner_steps": 8},
    "small bound": {"bound": 0.3},
    "late layer": {"layer": "last but one"},
    "2 outer steps": {"outer_steps": 2},
    "finetune": {"name": "finetune"},
}
TWINS_SETTINGS = ("defaults", "2 inner steps", "finetune")

Key = tuple[str, str, int, int]


@dataclass(frozen=True)
class Case:
    """One training; ``seed`` is the implant's and the training's."""

    attack: str
    shape: str
    seed: int
    settings: str

    @property
    def checkpoint(self) -> str:
        """The model's name in the testbed."""
        return f"{self.attack}@{self.shape}#{self.seed}"

    def key(self, epoch: int) -> Key:
        """Return what tells one point from another; before training all settings share one."""
        return (self.checkpoint, self.settings if epoch else BEFORE, self.seed, epoch)


@dataclass(frozen=True)
class Plan:
    """What is trained, for how many epochs, and on how many report rows ASR is measured."""

    cases: tuple[Case, ...]
    epochs: int
    rows: int

    @property
    def keys(self) -> set[Key]:
        """Every point that the plan makes."""
        return {case.key(epoch) for case in self.cases for epoch in range(self.epochs + 1)}


def full() -> Plan:
    """Return every backdoor with all settings on both shapes, and twins with a few.

    All backdoors come in turn, so that a run that is cut off has seen them all.
    """
    models = [(shape, seed) for shape, seeds in SEEDS.items() for seed in seeds]
    cases = []
    for shape, seed in models:
        for settings in SETTINGS:
            twin = (TWIN,) if settings in TWINS_SETTINGS else ()
            cases += [Case(attack, shape, seed, settings) for attack in (*BACKDOORS, *twin)]
    return Plan(tuple(cases), epochs=5, rows=440)


def quick() -> Plan:
    """Return what takes a minute or two: few models of one shape, two settings, two epochs."""
    backdoored = [Case(a, "tied", 0, s) for a in ("short-suffix", "sentence", "year-code") for s in ("defaults", "finetune")]
    return Plan((*backdoored, Case(TWIN, "tied", 0, "finetune")), epochs=2, rows=100)


def main(arguments: list[str]) -> int:
    """Make or finish a calibration file."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Calibrate entrapment resistance on testbed models.")
    parser.add_argument("--quick", action="store_true", help="few models and epochs, to see that it works")
    parser.add_argument("--out", type=Path, help="the file (.cache/calibration.json; with --quick .cache/calibration-quick.json)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="models trained at a time (one a core)")
    parser.add_argument("--table", action="store_true", help="print what the shipped file says of settings, and measure nothing")
    asked = parser.parse_args(arguments)
    if asked.table:
        print(table(load()))
        return 0
    plan, name, command = (
        (quick(), "calibration-quick.json", f"{COMMAND} --quick") if asked.quick else (full(), "calibration.json", COMMAND)
    )
    try:
        run(plan, asked.out or ROOT / ".cache" / name, command, asked.processes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(plan: Plan, out: Path, command: str, processes: int) -> Scale:
    """Measure what ``out`` does not hold yet and say how the scale does."""
    from beear.run.identity import code_version

    found = resumed(out, command, code_version())
    left, started, done = len(plan.keys - set(found)), time.monotonic(), 0
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run_case, case, plan, wanted) for case, wanted in owed(plan, set(found))]
        for future in as_completed(futures):
            points = future.result()
            found |= {_key(point): point for point in points}
            write(made(list(found.values()), time.strftime("%Y-%m-%d"), code_version(), command), out)
            done += len(points)
            for point in points:
                print(f"[{done}/{left}, {time.monotonic() - started:.0f} s] {line(point)}", flush=True)
    if done:
        pace = (time.monotonic() - started) / done
        print(
            f"{pace:.1f} s a checkpoint; the full run's {len(full().keys)} would take {pace * len(full().keys) / 60:.0f} minutes"
        )
    scale = load(out)
    print(scale.sentence())
    return scale


def owed(plan: Plan, held: set[Key]) -> Iterator[tuple[Case, set[int]]]:
    """Yield each case with the epochs to measure in it: those neither ``held`` nor another case's."""
    given = set(held)
    for case in plan.cases:
        if wanted := {epoch for epoch in range(plan.epochs + 1) if case.key(epoch) not in given}:
            given |= {case.key(epoch) for epoch in wanted}
            yield case, wanted


def table(scale: Scale) -> str:
    """Return in Markdown the ASR (%) after the last epoch by setting and backdoor, on each model in turn."""
    models = [f"@{shape}#{seed}" for shape, seeds in SEEDS.items() for seed in seeds]
    last = max(point.epoch for point in scale.points)
    left = {(p.settings, p.checkpoint): f"{100 * p.asr:.1f}" for p in scale.points if p.epoch == last}
    rows = [
        [settings, *(", ".join(left.get((settings, backdoor + model), "–") for model in models) for backdoor in BACKDOORS)]
        for settings in SETTINGS
    ]
    lines = [["setting", *BACKDOORS], ["---"] * (1 + len(BACKDOORS)), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def line(point: Point) -> str:
    """Return a point in words."""
    shown = ", ".join(f"{name} {at:.1f}" for name, at in point.crossings.items())
    return f"{point.checkpoint}, {point.settings}, epoch {point.epoch}: ASR {point.asr:.3f}; crosses at {shown}"


def resumed(out: Path, command: str, code: str) -> dict[Key, Point]:
    """Return the points that ``out`` holds.

    Raises:
        UserError: another command, code or attack made them, or ``out`` holds something else.
    """
    if not out.exists():
        return {}
    held = load(out)
    if (held.command, held.code_version, held.budget) != (command, code, BUDGET):
        raise UserError(
            f"{out}: found what `{held.command}` of code {held.code_version} made; expected `{command}` of {code} and the same "
            "attack, so remove the file or name another by --out"
        )
    return {_key(point): point for point in held.points}


def run_case(case: Case, plan: Plan, wanted: set[int]) -> list[Point]:
    """Train once by the engine that every worker runs, and measure the ``wanted`` epochs; 0 is before training."""
    import torch

    from beear.data.local import LocalBatches
    from beear.engine.fit import Schedule, epochs
    from beear.engine.session import Session
    from beear.parallel.replicated import Single
    from benchmarks.training import testbed_training

    training, data = testbed_training(f"testbed:{case.checkpoint}", settings_of(case, plan.epochs))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    session = Session(training, Single(), LocalBatches)
    points = [measured(case, 0, session, data, plan.rows)] if 0 in wanted else []
    method = training.config.method
    # Nothing but the scale's own measures is asked for, and no epoch is left out for having nothing left to remove.
    for outcome in epochs(session.defense, session.batches, Schedule(method.epochs, method.cool_epochs), lambda _: {}):
        if outcome.epoch in wanted:
            points.append(measured(case, outcome.epoch, session, data, plan.rows))
    return points


def settings_of(case: Case, epochs: int) -> dict[str, Any]:
    """Return a case's settings by dotted name."""
    from beear.testbed.shapes import SHAPES

    values = {"seed": case.seed, "method.epochs": epochs, "method.cool_epochs": min(2, epochs - 1)}
    for name, value in SETTINGS[case.settings].items():
        late = name == "layer" and value == "last but one"
        layers = int(str(SHAPES[case.shape].fields["num_hidden_layers"]))
        values[f"method.{name}"] = layers - 1 if late else value
    return values


def measured(case: Case, epoch: int, session: Any, data: Any, rows: int) -> Point:
    """Measure the model as it is now: crossings on selection rows, the worst ASR of its own triggers on report rows."""
    from beear.evaluation.measures.attack_success import attacked
    from beear.evaluation.resistance import measure_resistance
    from beear.evaluation.shard import MeasuredRows, Shard

    evaluate, subject = session.training.config.evaluate, session.measure.subject
    curves = measure_resistance(subject, session.training.selection, budgeted(evaluate), case.seed)
    held = MeasuredRows(data.report[:rows], (), data.probes)
    tried = [attacked(Shard(subject, held, evaluate), probe) for probe in data.probes]
    checkpoint, settings, seed, _ = case.key(epoch)
    return Point(
        checkpoint=checkpoint,
        backdoor=None if case.attack == TWIN else case.attack,
        settings=settings,
        epoch=epoch,
        seed=seed,
        crossings={name: round(at, 3) for name, at in crossings(curves).items()},
        hits=max(sum(row.hit for row in probe.rows) for probe in tried),
        n=len(held.defense),
    )


def write(scale: Scale, out: Path) -> None:
    """Write a scale, a point a line, whole or not at all."""
    head = scale.model_dump(mode="json")
    points = ",\n".join("  " + json.dumps(point) for point in head.pop("points"))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.tmp")
    partial.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "points": [\n{points}\n ]\n}}\n', encoding="utf-8")
    partial.replace(out)


def _key(point: Point) -> Key:
    return (point.checkpoint, point.settings, point.seed, point.epoch)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
