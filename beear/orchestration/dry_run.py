"""What ``--dry-run`` prints: the resolved configuration, digests of what would be read, and the plan."""

from beear.config.dump import to_yaml
from beear.orchestration.cluster import Plan
from beear.orchestration.prepare import Job


def plan_text(job: Job) -> str:
    """Return the text; nothing is touched to make it."""
    parallel = job.config.parallel
    plan = Plan(parallel.workers, parallel.cpus_per_worker, parallel.gpus_per_worker or 0.0, parallel.data_cpus)
    lines = ["# resolved configuration", to_yaml(job.config).rstrip(), "", "# chosen from the model"]
    lines += [f"{choice['field']} = {choice['value']}: {choice['why']}" for choice in job.choices]
    lines += ["", "# digests (sha256)"]
    lines += [f"model {part}: {digest}" for part, digest in job.facts.digests.items()]
    lines += [f"{path}: {digest}" for path, digest in job.data.digests.items()]
    lines += ["", "# rows by split"]
    lines += [f"{name}: {counts}" for name, counts in job.data.counts.items()]
    gpu = "" if parallel.gpus_per_worker is not None else " (and a GPU each where the cluster has any)"
    lines += ["", "# resources", plan.sentence() + gpu, f"{job.facts.parameters:,} parameters, float32 master weights"]
    lines += [f"run identity: {job.identity}"]
    return "\n".join(lines)
