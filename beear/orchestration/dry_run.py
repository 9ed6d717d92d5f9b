"""What ``--dry-run`` prints: the resolved configuration, digests of what would be read, and the plan."""

import tempfile
from pathlib import Path

from beear.config.dump import to_yaml
from beear.config.schema import RunConfig
from beear.orchestration.cluster import Plan
from beear.orchestration.console import Reporter
from beear.orchestration.outputs import OutputFolder
from beear.orchestration.prepare import Job, Kind, prepare
from beear.report.redact import redact
from beear.testbed import TestbedModel, preview
from beear.testbed.store import cache_root


def plan_text(config: RunConfig, kind: Kind, reporter: Reporter) -> str:
    """Return the text; nothing but a temporary folder is touched to make it.

    A built-in model that is not made yet is planned for by its base, which has the same shape; what depends on its
    weights is left out.

    Raises:
        UserError: whatever would stop the run before Ray starts.
    """
    seen: list[TestbedModel] = []

    def find(name: str) -> TestbedModel:
        seen.append(preview(name, scratch))
        return seen[-1]

    with tempfile.TemporaryDirectory() as scratch:
        job = prepare(config, kind, reporter, find)
        made = all(model.implanted for model in seen)
        if made:
            OutputFolder(Path(job.config.output.dir), job.identity).state(job.config.output.fresh)
        return _text(job, made).replace(scratch, str(cache_root()))


def _text(job: Job, made: bool) -> str:
    parallel = job.config.parallel
    plan = Plan(parallel.workers, parallel.cpus_per_worker, parallel.gpus_per_worker or 0.0, parallel.data_cpus)
    lines = ["# resolved configuration", redact(to_yaml(job.config)).rstrip(), "", "# chosen from the model"]
    lines += [f"{choice['field']} = {choice['value']}: {choice['why']}" for choice in job.choices]
    lines += ["", "# digests (sha256)"]
    digests = job.facts.digests if made else {name: d for name, d in job.facts.digests.items() if name != "weights"}
    lines += [f"model {part}: {digest}" for part, digest in digests.items()]
    lines += [] if made else [f"model weights: not made yet; the first run implants {job.asked}"]
    lines += [f"{path}: {digest}" for path, digest in job.data.digests.items()]
    lines += ["", "# rows by split"]
    lines += [f"{name}: {counts}" for name, counts in job.data.counts.items()]
    gpu = "" if parallel.gpus_per_worker is not None else " (and a GPU each where the cluster has any)"
    lines += ["", "# resources", plan.sentence() + gpu, f"{job.facts.parameters:,} parameters, float32 master weights"]
    lines += [f"run identity: {job.identity if made else 'known once the weights are'}"]
    return "\n".join(lines)
