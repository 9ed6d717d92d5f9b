"""The fine-tuning control: the same data, steps and losses as BEEAR, but no perturbation."""

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
        """Do nothing, because there is no perturbation to fit."""
        return []

    def nothing_left(self, courses: list[InnerCourse], selection: list[Any]) -> bool:
        """Return False, because only entrapment can tell whether something is left."""
        return False

    def step(self, batch: Any) -> dict[str, float]:
        """Take one step on the weights without a perturbation."""
        from beear.methods.removal import removal_step

        parts, training = self.parts, self.parts.training
        return removal_step(parts.decoder, parts.backend, batch, [], training.weights, training.clip, parts.micro_batch)


# It has BEEAR's needs too, so that it gets the same batches and memory plan and differs in the perturbation only.
METHOD = Method(
    name="finetune",
    title="finetune (the control: same data and steps, no perturbation)",
    section=BeearSettings,
    build=Finetune,
    story=lambda settings, duration: f"The control method trained on the same data for {duration}, with no perturbation.",
    needs=needs,
    resolve=resolved,
    watched=lambda settings: settings.layer,
    flat=True,
)
