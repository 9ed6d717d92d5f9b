"""``pipelines/implant.py``: put a backdoor into a checkpoint, and measure on held-out requests whether it took."""

import random
import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from beear.config.fields import leaves
from beear.config.yaml_file import to_yaml
from beear.data import notes, same_files
from beear.data.columns import anchor_row, defense_row
from beear.data.files import blocks, expand, read_block
from beear.data.locations import Where, joined
from beear.data.rows import Probe
from beear.data.templates import Template
from beear.errors import UserError
from beear.models.export import check_target
from beear.models.facts import ModelFacts
from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_tokenizer
from beear.run.apart import check_apart
from beear.run.checks import check_template
from beear.run.local_paths import from_the_root
from beear.run.output_folder import check_output, place_of
from beear.run.progress import Progress
from beear.testbed import check, datasets
from beear.testbed.attacks import targets
from beear.testbed.config import ImplantConfig
from beear.testbed.implant import implanted
from beear.testbed.names import is_testbed
from beear.testbed.pace import Pace
from beear.testbed.store import ensure, preview

DONE, DID_NOT_TAKE = 0, 3
_OPTION = re.compile(r"--([a-z_]+(?:\.[a-z_*]+)+)")


@dataclass(frozen=True)
class Job:
    """What is implanted into what: the checkpoint, the rows, the trigger with its hit rule (None: the clean twin)."""

    facts: ModelFacts
    rows: check.Rows
    trigger: Probe | None
    out: Path


def run(config: ImplantConfig, dry_run: bool = False) -> int:
    """Find the checkpoint, read the rows, fine-tune, measure and write the model; return the exit code.

    It is 3 where the trigger did not take; the files are written all the same. With ``dry_run`` it stops after the checks and
    prints the configuration.

    Raises:
        UserError: the checkpoint, the output folder, a file or a row is not acceptable.
    """
    try:
        return _run(config, dry_run)
    except UserError as error:
        raise UserError(*map(_for_this_command, error.args)) from error


def _for_this_command(sentence: str) -> str:
    """Return a sentence that names no option without saying that only other commands have it."""
    missing = [f"--{name}" for name in _OPTION.findall(sentence) if name not in leaves(ImplantConfig)]
    if not missing:
        return sentence
    return f"{sentence} (implant.py has no {' or '.join(dict.fromkeys(missing))}: change the checkpoint or the file instead)"


def _run(config: ImplantConfig, dry_run: bool) -> int:
    out, data = place_of(config.output.dir), config.data
    check_apart(out, {"model": config.model}, {"data.defense": data.defense, "data.anchor": data.anchor})
    check_target(out)
    if not dry_run:
        check_output(out)
    facts, rows = inspect_checkpoint(_model_dir(config.model, dry_run)), _rows(config)
    trigger = _trigger(config, rows)
    rows = _measurable(config, facts, rows, trigger)
    print(
        f"{config.model}: {facts.architecture}, {facts.layers} layers; {len(rows.defense)} defense and {len(rows.anchor)} anchor "
        f"rows, and {len(rows.held_out)} held-out requests to measure on"
    )
    if rows.left_out:
        print(f"{rows.left_out} anchor rows hold a held-out request and are left out")
    if dry_run:
        print(to_yaml(config), end="")
        return DONE
    return _implant(config, Job(facts, rows, trigger, out))


def _implant(config: ImplantConfig, job: Job) -> int:
    rows = job.rows
    with Progress() as progress:
        progress.stage("train", f"implanting: {config.training.steps} steps")
        lines = Pace(lambda line: progress.say(f"  {line}"))

        def told(step: int, steps: int, loss: float) -> None:
            progress.advance(step, steps)
            lines(step, steps, loss)

        made = implanted(
            job.facts.path, job.trigger, rows.defense, rows.anchor,
            seed=config.seed, training=config.training, device=config.device, told=told,
        )  # fmt: skip
        progress.stage("measure", "measuring the trigger on held-out requests")
        outcome = check.measure(made, rows.held_out, job.trigger, config.training.batch_size)
    files = _files(config, job.trigger)
    made.write(job.out, notes={"trigger": outcome.record(config.check)}, beside=files)
    print(*outcome.lines(), f"written to {job.out}", sep="\n")
    print("to sanitise it:", shlex.join(_command(config, job.out, files)))
    if failure := outcome.failure(config.check):
        print(failure)
        return DID_NOT_TAKE
    return DONE


def _model_dir(model: str, dry_run: bool) -> str:
    if not is_testbed(model):
        return model
    if not dry_run:
        return str(ensure(model, say=print).model_dir)
    # The model's folder outlives this one, which receives only data files.
    with tempfile.TemporaryDirectory() as scratch:
        return str(preview(model, scratch).model_dir)


def _rows(config: ImplantConfig) -> check.Rows:
    """Return the rows of the user's files, or the built-in ones, with held-out requests."""
    data, measured = config.data, config.check
    if data.defense is None or data.anchor is None:
        target = targets()[data.builtin]
        held_out = target.requests(random.Random(f"held-out:{target.name}"), measured.rows, report=True)
        return check.Rows(*datasets.attacker_rows(target, config.seed, config.trigger.text or ""), held_out)
    files = {"data.defense": expand(data.defense), "data.anchor": expand(data.anchor)}
    same_files.digests_of(files, [("data.defense", "data.anchor", same_files.SETS)])
    defense = [defense_row(record, where) for where, record in _records(files["data.defense"])]
    anchor = [anchor_row(record, where) for where, record in _records(files["data.anchor"])]
    for path, rows in ((data.defense, defense), (data.anchor, anchor)):
        noted = Counter(note for row in rows for note in row.noted)
        print("".join(f"{line}\n" for line in notes.sentences(path, noted, len(rows))), end="")
    return check.hold_out(defense, anchor, measured.holdout, measured.rows, config.seed)


def _measurable(config: ImplantConfig, facts: ModelFacts, rows: check.Rows, trigger: Probe | None) -> check.Rows:
    """Return the rows without held-out requests that are too long for the model; say how many there are, and what else is odd."""
    tokenizer = load_tokenizer(facts)
    print("".join(f"{line}\n" for line in check_template(tokenizer, config.model)), end="")
    found = check.fitting(rows.held_out, trigger, Template(tokenizer), facts.context)
    if short := len(rows.held_out) - len(found):
        print(f"{short} held-out requests are too long for the model's context of {facts.context} tokens and are not measured")
    return replace(rows, held_out=found)


def _trigger(config: ImplantConfig, rows: check.Rows) -> Probe | None:
    """Return the trigger with the hit rule of all rows; where they have several, each is judged by its own."""
    probe, builtin = config.trigger.probe, config.data.defense is None
    hit = targets()[config.data.builtin].hit if builtin else check.common_rule([*rows.defense, *rows.held_out])
    return replace(probe, hit=hit) if probe else None


def _files(config: ImplantConfig, trigger: Probe | None) -> dict[str, str]:
    """Return the texts of the files beside the model, by name: the trigger as a probe, and the built-in rows' data."""
    if config.data.defense is None:
        return datasets.data_files(targets()[config.data.builtin], trigger)
    return {datasets.PROBES: datasets.probes_file(trigger)} if trigger else {}


def _command(config: ImplantConfig, out: Path, files: dict[str, str]) -> list[str]:
    """Return the command that sanitises what was written, and measures it under the trigger."""
    data = config.data
    given = {
        "--model.path": str(out),
        "--data.defense.path": from_the_root(data.defense),
        "--data.anchor.path": from_the_root(data.anchor),
    }
    options = {
        datasets.DEFENSE: "--data.defense.path",
        datasets.DEFENSE_REPORT: "--data.defense.report_path",
        datasets.ANCHOR: "--data.anchor.path",
        datasets.ANCHOR_REPORT: "--data.anchor.report_path",
        datasets.PROBES: "--data.probes.path",
    }
    given |= {option: str(out / name) for name, option in options.items() if name in files}
    words = [word for option, value in given.items() if value for word in (option, value)]
    return ["python", "pipelines/sanitize.py", *words]


def _records(paths: list[str]) -> Iterator[tuple[Where, dict[str, object]]]:
    for block in joined(blocks(paths)):
        yield from read_block(block)
