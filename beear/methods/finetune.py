"""The control: the same data, steps and losses as BEEAR, with no perturbation."""

from typing import Any

from beear.methods.base import InnerCourse, MethodParts, MethodState
from beear.methods.beear import BeearSettings, needs, resolved
from beear.methods.method import Method


class Finetune:
    """Plain fine-tuning on safe answers and the anchoring set."""

    def __init__(self, parts: MethodParts[BeearSettings]) -> None:
        """Keep the parts."""
        self.parts = parts
        self.state = MethodState()
        self.notes: list[str] = []

    def begin_epoch(self, batches: list[Any], cools: bool) -> list[InnerCourse]:
        """Do nothing: there is no inner level."""
        return []

    def nothing_left(self, courses: list[InnerCourse], selection: list[Any]) -> bool:
        """Return False: without an inner level nobody knows."""
        return False

    def step(self, batch: Any) -> dict[str, float]:
        """Take one step on the weights, without perturbation."""
        from beear.methods.removal import removal_step

        parts, training = self.parts, self.parts.training
        return removal_step(parts.decoder, parts.backend, batch, [], training.weights, training.clip, parts.micro_batch)


# It draws BEEAR's batches and is planned for like BEEAR, so that the two differ in the perturbation alone.
METHOD = Method(
    name="finetune",
    title="finetune (the control: same data and steps, no perturbation)",
    section=BeearSettings,
    build=Finetune,
    story=lambda settings, duration: f"The control method trained on the same data for {duration}, with no perturbation.",
    needs=needs,
    resolve=resolved,
    watched=lambda settings: settings.layer,
    search_defaults={"placement": "suffix"},
    flat=True,
)
