"""What ``--dry-run`` prints: the resolved configuration, digests of what would be read, and the plan."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from beear.cluster.capacity import Reservation
from beear.config.resolve import Choice
from beear.config.schema import ParallelConfig, RunConfig
from beear.config.shape import ModelShape
from beear.methods.configuration import resolved
from beear.methods.table import METHODS
from beear.models.config_file import read_config
from beear.models.shape import model_shape
from beear.models.weights import only_described
from beear.records.redact import redact
from beear.run.job_kind import JobKind
from beear.run.longest_rows import assumed_lengths
from beear.run.memory_table import measuring_lines, training_table
from beear.run.output_folder import OutputFolder
from beear.run.prepare import prepare
from beear.run.progress import Progress
from beear.run.stages import Checked
from beear.testbed import TestbedModel, preview
from beear.testbed.store import cache_root


def plan_text(asked: RunConfig, kind: JobKind, progress: Progress) -> str:
    """Return the text; nothing but a temporary folder is touched to make it.

    A built-in model that is not made yet is planned for by its base, which has the same shape; what depends on its
    weights is left out. So is everything but the plan where a folder holds a config.json and no weights.

    Raises:
        UserError: whatever would stop the run before Ray starts.
    """
    described = Path(asked.model.path).expanduser()
    if only_described(described):
        return _described(asked, kind, described)
    seen: list[TestbedModel] = []

    def find(name: str) -> TestbedModel:
        seen.append(preview(name, scratch))
        return seen[-1]

    with tempfile.TemporaryDirectory() as scratch:
        checked = kind.refine(prepare(asked, kind.name, kind.trains, progress, find))
        made = all(model.implanted for model in seen)
        if made:
            OutputFolder(Path(asked.output.dir), checked.identity, kind.record).state(asked.output.fresh)
        return _text(checked, made).replace(scratch, str(cache_root()))


def _text(checked: Checked, made: bool) -> str:
    config, parallel = checked.config, checked.parallel
    lines = [*_settings(config.values, checked.choices), "# digests (sha256)"]
    digests = {name: digest for name, digest in checked.facts.digests.items() if made or name != "weights"}
    lines += [f"model {part}: {digest}" for part, digest in digests.items()]
    lines += [] if made else [f"model weights: not made yet; the first run implants {checked.asked.model.path}"]
    lines += [f"{path}: {digest}" for path, digest in checked.data.digests.items()]
    lines += ["", "# rows by split"]
    lines += [f"{name}: {counts}" for name, counts in checked.data.counts.items()]
    lines += ["", "# resources", _cluster_share(parallel)]
    lines += [f"run identity: {checked.identity if made else 'known once the weights are'}"]
    return "\n".join([*lines, *_memory(checked, model_shape(checked.facts.weights_folder, config.adapter))])


def _memory(checked: Checked, shape: ModelShape) -> list[str]:
    config, parallel = checked.config, checked.parallel
    lines = ["", "# memory to measure the model, on one device", *measuring_lines(config, parallel, shape, checked.lengths)]
    if checked.trains:
        table = training_table(config, checked.method.needs(config.settings), parallel, shape, checked.lengths)
        lines += ["", "# memory to train it at the peak, on each device", *table]
    return lines


def _described(asked: RunConfig, kind: JobKind, folder: Path) -> str:
    """Return what config.json alone says: no data is read, for a tokenizer may be missing too."""
    _, facts = read_config(folder)
    shape = model_shape(str(folder), asked.adapter)
    config, choices = resolved(asked, shape.sizes(facts.context))
    lengths, rows = assumed_lengths(config.data.max_length), ", for rows as long as data.max_length allows"
    lines = [
        *_settings(config.values, choices),
        "# resources",
        _cluster_share(asked.parallel),
        f"{folder} holds a config.json and no weights: a run needs them",
        "",
        f"# memory to measure the model, on one device{rows}",
        *measuring_lines(config, asked.parallel, shape, lengths),
    ]
    if kind.trains:
        needs = METHODS[config.method.name].needs(config.settings)
        table = training_table(config, needs, asked.parallel, shape, lengths)
        lines += ["", f"# memory to train it at the peak, on each device{rows}", *table]
    return "\n".join(lines)


def _settings(values: Mapping[str, Any], choices: Sequence[Choice]) -> list[str]:
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=10_000)
    lines = ["# resolved configuration", redact(text).rstrip(), "", "# chosen from the model"]
    return [*lines, *(f"{choice['field']} = {choice['value']}: {choice['why']}" for choice in choices), ""]


def _cluster_share(parallel: ParallelConfig) -> str:
    wanted = Reservation(parallel.workers, parallel.cpus_per_worker, parallel.gpus_per_worker or 0.0, parallel.data_cpus)
    sentence = wanted.sentence()
    return sentence + ("" if parallel.gpus_per_worker is not None else " (and a GPU each where the cluster has any)")
