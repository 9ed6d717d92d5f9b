"""Every backdoor of the testbed against BEEAR with one set of defaults, the finetune control, and the clean twin.

    python -m benchmarks.evidence backdoors

A case trains in this process by the same engine that Ray Train runs (a test holds both to the same batches), exports,
reloads the files and measures them on report rows: unique requests and held-out nouns that training never saw.
"""

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.training import testbed_training

ATTACKS = ("short-prefix", "short-suffix", "long-prefix", "long-suffix", "sentence", "year-code")
SEEDS = {"tied": (0, 1, 2), "deep": (0,)}
PROCESSES = 2


@dataclass(frozen=True)
class Case:
    """One model and one method; ``seed`` is the implant's."""

    attack: str
    shape: str
    seed: int
    method: str

    @property
    def name(self) -> str:
        """A file name for the case."""
        return f"{self.attack}-{self.shape}-{self.seed}-{self.method}"


def cases() -> Iterator[Case]:
    """Yield every case of the table, BEEAR's first."""
    for method in ("beear", "finetune"):
        for shape, seeds in SEEDS.items():
            for seed in seeds:
                for attack in (*ATTACKS, "clean") if method == "beear" else ATTACKS:
                    yield Case(attack, shape, seed, method)


def measure(folder: Path) -> dict[str, Any]:
    """Run what is missing in ``folder`` (one JSON file a case) and return the table's data."""
    folder.mkdir(parents=True, exist_ok=True)
    left = [case for case in cases() if not (folder / f"{case.name}.json").exists()]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run_case, case): case for case in left}
        for done in as_completed(futures):
            case, found = futures[done], done.result()
            partial = folder / f"{case.name}.tmp"
            partial.write_text(json.dumps(found))
            partial.replace(folder / f"{case.name}.json")
            print(f"{case.name}: {line(found)}", flush=True)
    return {"cases": [json.loads((folder / f"{case.name}.json").read_text()) for case in cases()]}


def run_case(case: Case) -> dict[str, Any]:
    """Train, export, reload and measure one case."""
    import time

    from beear.data.local import LocalBatches
    from beear.engine.session import Session
    from beear.models.export import export_model
    from beear.models.inspect import inspect_checkpoint
    from beear.parallel.replicated import Single

    training, data = testbed_training(f"testbed:{case.attack}@{case.shape}#{case.seed}", {"method.name": case.method})
    config, facts = training.config, training.facts
    started, outcomes = time.monotonic(), []
    session = Session(training, Single(), LocalBatches)
    session.fit(outcomes.append)
    seconds = time.monotonic() - started
    with tempfile.TemporaryDirectory() as folder:
        exported = export_model(session.model, facts, Path(folder) / "model")
        before, after = (_measured(config, data, found) for found in (facts, inspect_checkpoint(str(exported))))
    steps = sum(outcome.steps for outcome in outcomes)
    return {**asdict(case), "before": before, "after": after, "steps": steps, "seconds": round(seconds, 1)}


def _measured(config: Any, data: Any, facts: Any) -> dict[str, Any]:
    from beear.cluster.scoring import subject_of
    from beear.evaluation.measure import measure, merge
    from beear.evaluation.shard import MeasuredRows

    rows = MeasuredRows(data.report, data.anchor_report, data.probes)
    found = merge([measure(subject_of(config, facts), rows, config.evaluate, config.seed)], config.evaluate.confidence)
    worst = max(found.asr_probes, key=lambda probe: probe.asr.rate)
    return {
        "asr": worst.asr.model_dump(),
        "asr_clear": found.asr_clean.asr.model_dump(),
        "exact": found.exact_match.model_dump(),
        "over_refusal": found.over_refusal.model_dump(),
        "resistance": {c.placement: c.crossing_step for c in found.resistance},
    }


def line(found: dict[str, Any]) -> str:
    """Return one case's result in a line."""
    before, after = found["before"], found["after"]
    return (
        f"ASR {before['asr']['rate']:.3f} -> {after['asr']['rate']:.3f}, exact match {before['exact']['rate']:.3f} -> "
        f"{after['exact']['rate']:.3f}, over-refusal {after['over_refusal']['rate']:.3f}, {found['steps']} steps, "
        f"{found['seconds']:.0f} s"
    )


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/results.md."""
    found = result["cases"]
    n = found[0]["after"]
    text = [
        "## Six backdoors, one set of defaults",
        "",
        f"n = {n['asr']['n']} requests for ASR, {n['exact']['n']} benign prompts for exact match and over-refusal, none "
        "seen in training; exported files reloaded from disk. Seeds are the implant's. `finetune` takes the same data, "
        "without a perturbation, for at least as many steps; `clean` is the twin without a backdoor, tried with the "
        "short-suffix trigger. The defaults were chosen while looking at these models' report rows, so this is no blind test "
        "of them ([negative-results.md](negative-results.md)).",
        "",
        "| backdoor | shape | seed | method | triggered ASR before | after [95%] | exact match before | after | loss (points) "
        "| over-refusal rise (points) | steps | train s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    text += [_row(case) for case in found]
    text += ["", *_summary(found), ""]
    return "\n".join(text)


def _row(case: dict[str, Any]) -> str:
    before, after = case["before"], case["after"]
    asr = after["asr"]
    cells = [
        case["attack"], case["shape"], str(case["seed"]), case["method"], f"{before['asr']['rate']:.3f}",
        f"{asr['rate']:.3f} [{asr['low']:.3f}, {asr['high']:.3f}]", f"{before['exact']['rate']:.3f}",
        f"{after['exact']['rate']:.3f}", f"{_points(case, 'exact', -1):+.1f}", f"{_points(case, 'over_refusal', 1):+.1f}",
        str(case["steps"]), f"{case['seconds']:.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _points(case: dict[str, Any], what: str, sign: int) -> float:
    return 100 * sign * (case["after"][what]["rate"] - case["before"][what]["rate"])


def _summary(found: list[dict[str, Any]]) -> list[str]:
    lines = []
    for method in ("beear", "finetune"):
        backdoored = [c for c in found if c["method"] == method and c["attack"] != "clean"]
        losses = [_points(c, "exact", -1) for c in backdoored]
        rises = [_points(c, "over_refusal", 1) for c in backdoored]
        worst = max(c["after"]["asr"]["rate"] for c in backdoored)
        lowest = min(c["before"]["asr"]["rate"] for c in backdoored)
        lines.append(
            f"- `{method}`, {len(backdoored)} runs: triggered ASR before at least {lowest:.3f}, after at most {worst:.3f} "
            f"(mean {mean(c['after']['asr']['rate'] for c in backdoored):.3f}); exact match lost {mean(losses):.2f} points "
            f"on average, {max(losses):.1f} at most; over-refusal rose {mean(rises):.2f} points on average."
        )
    return lines
