"""The control: the same data, steps and losses as BEEAR, with no perturbation."""

from beear.data.batch import DefenseBatch, OuterBatch
from beear.methods.base import InnerCourse, MethodParts, MethodState
from beear.methods.removal import removal_step


class Finetune:
    """Plain fine-tuning on safe answers and the anchoring set."""

    def __init__(self, parts: MethodParts) -> None:
        """Keep the parts."""
        self.parts = parts
        self.state = MethodState()
        self.notes: list[str] = []

    def begin_epoch(self, batches: list[DefenseBatch], cools: bool) -> list[InnerCourse]:
        """Do nothing: there is no inner level."""
        return []

    def nothing_left(self, courses: list[InnerCourse], selection: list[DefenseBatch]) -> bool:
        """Never known without an inner level."""
        return False

    def step(self, batch: OuterBatch) -> dict[str, float]:
        """Take one step on the weights, without perturbation."""
        parts, config = self.parts, self.parts.config
        return removal_step(parts.decoder, parts.backend, batch, [], config.weights, config.clip, parts.micro_batch)
