"""What ``--dry-run`` prints: the resolved configuration, digests of what would be read, and the plan."""

import tempfile
from pathlib import Path

from beear.cluster.connection import Plan
from beear.config.dump import to_yaml
from beear.config.resolve import Choice, resolve
from beear.config.schema import RunConfig
from beear.config.shape import ModelShape
from beear.models.config_file import read_config
from beear.models.shape import model_shape
from beear.models.weights import only_described
from beear.records.redact import redact
from beear.run.job_kind import JobKind
from beear.run.longest_rows import Lengths, assumed_lengths
from beear.run.memory_table import measuring, resources
from beear.run.output_folder import OutputFolder
from beear.run.prepare import Job, Kind, prepare
from beear.run.progress import Reporter
from beear.testbed import TestbedModel, preview
from beear.testbed.store import cache_root


def plan_text(config: RunConfig, kind: JobKind, reporter: Reporter) -> str:
    """Return the text; nothing but a temporary folder is touched to make it.

    A built-in model that is not made yet is planned for by its base, which has the same shape; what depends on its
    weights is left out. So is everything but the plan where a folder holds a config.json and no weights.

    Raises:
        UserError: whatever would stop the run before Ray starts.
    """
    described = Path(config.model.path).expanduser()
    if only_described(described):
        return _described(config, kind.name, described)
    seen: list[TestbedModel] = []

    def find(name: str) -> TestbedModel:
        seen.append(preview(name, scratch))
        return seen[-1]

    with tempfile.TemporaryDirectory() as scratch:
        job = kind.check(prepare(config, kind.name, reporter, find))
        made = all(model.implanted for model in seen)
        if made:
            OutputFolder(Path(job.config.output.dir), job.identity, kind.record).state(job.config.output.fresh)
        return _text(job, made).replace(scratch, str(cache_root()))


def _text(job: Job, made: bool) -> str:
    lines = [*_settings(job.config, job.choices), "# digests (sha256)"]
    digests = job.facts.digests if made else {name: d for name, d in job.facts.digests.items() if name != "weights"}
    lines += [f"model {part}: {digest}" for part, digest in digests.items()]
    lines += [] if made else [f"model weights: not made yet; the first run implants {job.asked}"]
    lines += [f"{path}: {digest}" for path, digest in job.data.digests.items()]
    lines += ["", "# rows by split"]
    lines += [f"{name}: {counts}" for name, counts in job.data.counts.items()]
    lines += ["", "# resources", _cluster_share(job.config)]
    lines += [f"run identity: {job.identity if made else 'known once the weights are'}"]
    shape = model_shape(job.facts.weights_folder, job.config.adapter)
    return "\n".join([*lines, *_memory(job.config, job.kind, shape, job.lengths)])


def _memory(config: RunConfig, kind: Kind, shape: ModelShape, lengths: Lengths, rows: str = "") -> list[str]:
    lines = ["", f"# memory to measure the model, on one device{rows}", *measuring(config, shape, lengths)]
    if kind != "evaluate":
        lines += ["", f"# memory to train it at the peak, on each device{rows}", *resources(config, shape, lengths)]
    return lines


def _described(config: RunConfig, kind: Kind, folder: Path) -> str:
    """Return what config.json alone says: no data is read, for a tokenizer may be missing too."""
    _, facts = read_config(folder)
    shape = model_shape(str(folder), config.adapter)
    config, choices = resolve(config, shape.sized(facts.context))
    assert config.data.max_length is not None
    return "\n".join(
        [
            *_settings(config, choices),
            "# resources",
            _cluster_share(config),
            f"{folder} holds a config.json and no weights: a run needs them",
            *_memory(
                config, kind, shape, assumed_lengths(config.data.max_length), ", for rows as long as data.max_length allows"
            ),
        ]
    )


def _settings(config: RunConfig, choices: list[Choice]) -> list[str]:
    lines = ["# resolved configuration", redact(to_yaml(config)).rstrip(), "", "# chosen from the model"]
    return [*lines, *(f"{choice['field']} = {choice['value']}: {choice['why']}" for choice in choices), ""]


def _cluster_share(config: RunConfig) -> str:
    parallel = config.parallel
    plan = Plan(parallel.workers, parallel.cpus_per_worker, parallel.gpus_per_worker or 0.0, parallel.data_cpus)
    return plan.sentence() + ("" if parallel.gpus_per_worker is not None else " (and a GPU each where the cluster has any)")
