"""What searches find, on two built-in backdoors, with and without probes, and what their trials cost.

    make evidence PART=search

Every search and job is a command of its own, as a user gives it. The ASR that counts is measured afterwards by the main job with
``best.yaml``, on report rows that no search sees.
"""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from beear.report.search_text import describe
from benchmarks.jobs import ROOT, environment, run

BACKDOORS = ("testbed:short-suffix", "testbed:long-prefix")
MEASURES = ("probes", "resistance")
TRIALS, MINUTES, ASR, POINTS = 16, 15.0, 0.01, 1.0
# Two inner steps and a bound this small cross nothing, which leaves a trigger of seven words where it is (one word's is lost to
# any training).
CORNERED = BACKDOORS[1]
CORNERS = "method.layer: [2, 5]\nmethod.length: [5]\nmethod.inner_steps: [2, 25]\nmethod.bound: [0.02, none]\n"
# As a user has it, and the worst: bad values come first, and the first trials have nobody to be worse than.
ORDERS = ("random", "grid")
# A trial's start is what is measured, not its training.
STARTS = "method.layer: [1, 2, 3, 4]\nmethod.length: [5]\nmethod.inner_steps: [1, 2]\n"
BRIEF = (
    "--method.epochs=1",
    "--method.outer_steps=1",
    "--method.cool_epochs=0",
    "--search.scheduler=none",
    "--search.algorithm=grid",
)
SEQUENTIAL = (
    "--search.scheduler=none",
    "--search.concurrent=1",
    "--search.trials=4",
    "--method.epochs=3",
    "--method.cool_epochs=1",
)


def measure(folder: Path) -> dict[str, Any]:
    """Run everything; searches that are complete in ``folder`` are read again."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "searches": [found(folder, backdoor, measured) for backdoor in BACKDOORS for measured in MEASURES],
        "whole": whole(folder),
        "corners": [corners(folder, measured, order) for measured in MEASURES for order in ORDERS],
        "starts": starts(folder),
        "kills": [kills(folder, "none"), kills(folder, "asha")],
    }


def tune(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a search with its output in ``folder``/out and return its record.

    Raises:
        RuntimeError: it ended with another code than 0 or 3.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command(folder, *arguments), env=environment(folder.parent / "cache"), capture_output=True, text=True, cwd=folder
    )
    if done.returncode not in (0, 3):
        raise RuntimeError(done.stdout + done.stderr)
    record: dict[str, Any] = json.loads((folder / "out" / "search.json").read_text())
    return {**record, "code": done.returncode}


def command(folder: Path, *arguments: str) -> list[str]:
    """Return the search's command."""
    place = ["--output.dir", str(folder / "out"), "--tracking.enabled", "false"]
    return [sys.executable, str(ROOT / "pipelines" / "tune.py"), *place, *arguments]


def found(folder: Path, backdoor: str, measured: str) -> dict[str, Any]:
    """Search, sanitise with what was chosen, and return both ends."""
    here = folder / f"{backdoor.partition(':')[2]}-{measured}"
    record = tune(here, "--model.path", backdoor, f"--search.measure={measured}", f"--search.trials={TRIALS}")
    chosen = next(trial for trial in record["trials"] if trial["id"] == record["chosen"])
    done = run(here / "best", "--config", str(here / "out" / "best.yaml"), "--tracking.enabled", "false", cache=folder / "cache")
    if done.report is None:
        raise RuntimeError(done.said)
    before, after = done.report["before"], done.report["after"]
    lost = 100 * (before["exact_match"]["rate"] - after["exact_match"]["rate"])
    return {
        "backdoor": backdoor, "measure": measured, "seconds": record["seconds"], "concurrent": record["concurrent"],
        "trials": len(record["trials"]), "settings": chosen["settings"], "epoch": chosen["best_epoch"],
        "before": before["asr_probes"][0]["asr"], "after": after["asr_probes"][0]["asr"], "lost": lost,
        "run": record["epochs_run"], "planned": record["epochs_planned"],
        "statuses": sorted(trial["status"] for trial in record["trials"]),
    }  # fmt: skip


def whole(folder: Path) -> dict[str, Any]:
    """Return the epochs of the first search's trials when nothing stops them but their own schedule."""
    record = tune(
        folder / "whole", "--model.path", BACKDOORS[0], f"--search.trials={TRIALS}", "--search.scheduler=none",
        "--search.stop_asr=none", "--search.give_up=none",
    )  # fmt: skip
    return {"backdoor": BACKDOORS[0], "run": record["epochs_run"], "seconds": record["seconds"]}


def corners(folder: Path, measured: str, order: str) -> dict[str, Any]:
    """Search a space whose corners are bad and return how each trial ended."""
    here = folder / f"corners-{measured}-{order}"
    here.mkdir(parents=True, exist_ok=True)
    (here / "space.yaml").write_text(CORNERS)
    record = tune(
        here, "--model.path", CORNERED, f"--search.space={here}/space.yaml", f"--search.algorithm={order}", "--search.trials=8",
        f"--search.measure={measured}",
    )  # fmt: skip
    return {"measure": measured, "order": order, "trials": [_told(trial, record["chosen"]) for trial in record["trials"]]}


def _told(trial: dict[str, Any], chosen: str | None) -> dict[str, Any]:
    last = trial["epochs"][-1]["asr"] if trial["epochs"] else None
    return {"settings": trial["settings"], "status": trial["status"], "epochs": len(trial["epochs"]), "asr": last,
            "reason": trial["reason"], "chosen": trial["id"] == chosen}  # fmt: skip


def starts(folder: Path) -> dict[str, Any]:
    """Return the start-up seconds of each trial in shared processes and as Ray Train runs, one at a time."""
    seconds = {}
    for name, warm in (("warm", "true"), ("cold", "false")):
        here = folder / f"starts-{name}"
        here.mkdir(parents=True, exist_ok=True)
        (here / "space.yaml").write_text(STARTS)
        record = tune(
            here,
            *BRIEF,
            f"--search.space={here}/space.yaml",
            "--search.trials=8",
            f"--search.warm={warm}",
            "--search.concurrent=1",
        )
        seconds[name] = [trial["seconds"] - sum(epoch["seconds"] for epoch in trial["epochs"]) for trial in record["trials"]]
    return seconds


def kills(folder: Path, scheduler: str) -> dict[str, Any]:
    """Kill a search's driver at a random moment, go on with it, and hold it to the undisturbed one."""
    arguments = (*SEQUENTIAL, f"--search.scheduler={scheduler}")
    calm, here = tune(folder / f"calm-{scheduler}", *arguments), folder / f"killed-{scheduler}"
    here.mkdir(parents=True, exist_ok=True)
    moment = random.Random(scheduler).uniform(0.3, 0.8) * (calm["seconds"] + 15)
    process = subprocess.Popen(
        command(here, *arguments),
        env=environment(folder / "cache"),
        cwd=here,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(moment)
    ended = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
    partial = next(here.glob(".out.*.partial/trials.json"), None)
    kept = json.loads(partial.read_text()) if partial else []
    ends = {trial["id"]: trial["ended"] for trial in kept if trial["status"] not in ("waiting", "running")}
    record = tune(here, *arguments, *(["--resume"] if partial and not ended else []))
    again = [trial["id"] for trial in record["trials"] if trial["id"] in ends and trial["ended"] != ends[trial["id"]]]
    return {
        "scheduler": scheduler, "moment": moment, "finished": len(ends), "again": len(again),
        "calm": _settings(calm), "resumed": _settings(record), "code": record["code"],
    }  # fmt: skip


def _settings(record: dict[str, Any]) -> dict[str, Any] | None:
    return next((trial["settings"] for trial in record["trials"] if trial["id"] == record["chosen"]), None)


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/results.md."""
    lines = [
        "## Searches",
        "",
        f"`pipelines/tune.py` on built-in models: {TRIALS} random settings of the llama space (l × n × inner steps), ASHA on ASR "
        "by probes, or on what entrapment resistance says ASR is at most. ASR and exact match were measured afterwards, by the "
        f"main job with best.yaml on report rows that no search sees. Goals: ASR ≤ {ASR:.0%}, exact match within {POINTS:g} "
        f"point, under {MINUTES:g} minutes.",
        "",
        "| backdoor | ASR by | chosen | ASR before | after (n) | exact match lost | epochs run of planned | minutes |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(found) for found in result["searches"]),
        "",
        f"The trials of the first search run to the end of their schedules instead: {result['whole']['run']} epochs, "
        f"{result['whole']['seconds'] / 60:.1f} minutes; the search itself {result['searches'][0]['run']} epochs, "
        f"{result['searches'][0]['seconds'] / 60:.1f} minutes.",
        "",
        f"A space with bad corners (K = 2, a norm bound of 0.02) on {CORNERED}: in random order, as by default, and as a grid "
        "that begins with them, so that none of its first trials is worse than others, and one that has begun to remove "
        "something runs on. Layer 5 of 6 is late, but on these models no bad one: in the calibration it removes as much as the "
        "default layer.",
        "",
        "| ASR by | order | settings | ended | ASR then | chosen |",
        "|---|---|---|---|---|---|",
    ]
    for case in result["corners"]:
        for trial in case["trials"]:
            asr = "–" if trial["asr"] is None else f"{trial['asr']:.2f}"
            mark = "yes" if trial["chosen"] else ""
            lines.append(
                f"| {case['measure']} | {case['order']} | {describe(trial['settings'])} | {_ended(trial)} | {asr} | {mark} |"
            )
    warm, cold = (median(result["starts"][name][1:]) for name in ("warm", "cold"))
    lines += [
        "",
        f"A trial's time beyond its epochs, median of {len(result['starts']['warm']) - 1} after the first: {warm:.1f} s in "
        f"shared processes, {cold:.1f} s as a Ray Train run of its own ({cold / max(warm, 1e-9):.1f} ×).",
        "",
    ]
    for kill in result["kills"]:
        same = "the same settings" if kill["calm"] == kill["resumed"] else "other settings"
        lines += [
            f"Driver killed after {kill['moment']:.0f} s under scheduler {kill['scheduler']}: {kill['finished']} trials had "
            f"finished, {kill['again']} of them ran again; {same} as undisturbed were chosen (exit code {kill['code']}).",
            "",
        ]
    return "\n".join(lines)


def _ended(trial: dict[str, Any]) -> str:
    return f"{trial['status']} {trial['reason']}".strip() + ("" if trial["reason"] else f" after {trial['epochs']} epochs")


def _row(found: dict[str, Any]) -> str:
    before, after = found["before"], found["after"]
    return (
        f"| {found['backdoor']} | {found['measure']} | {describe(found['settings'])}, epoch {found['epoch']} "
        f"| {before['rate']:.3f} | {after['rate']:.3f} ({after['n']}) | {found['lost']:.1f} points "
        f"| {found['run']} of {found['planned']} | {found['seconds'] / 60:.1f} |"
    )
