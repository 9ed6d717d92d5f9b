"""What travels to Ray Data tasks: plain data, no tokenizer and no open file."""

from dataclasses import dataclass

from beear.data.steps import TrainingPlan
from beear.models.facts import ModelFacts


@dataclass(frozen=True)
class StreamPlan:
    """The sampling plan with the checkpoint whose tokenizer it needs.

    ``epochs`` is the last epoch, ``first_epoch`` the first one still to run; ``data_cpus`` is the share of CPUs that
    all workers' reading tasks have together. ``chat_template`` is a .jinja file.
    """

    plan: TrainingPlan
    facts: ModelFacts
    epochs: int
    data_cpus: float = 0.5
    chat_template: str | None = None
    first_epoch: int = 1


def shard_name(rank: int) -> str:
    """Return the name of worker ``rank``'s data set in Ray Train."""
    return f"rows-{rank}"
