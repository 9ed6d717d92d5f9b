"""A toy method: removal under a random perturbation of every prompt position, drawn anew in each epoch."""

from typing import Any

from pydantic import Field

from beear.config.resolve import Choice, Sizes, depth, within
from beear.config.schema import PositiveFloat, PositiveInt, Section
from beear.methods.base import InnerCourse, MethodParts, MethodState
from beear.methods.method import Method


class NoiseSettings(Section):
    """The noise."""

    layer: PositiveInt | None = Field(None, description="decoder layer whose output is disturbed (auto: the middle one)")
    scale: PositiveFloat = Field(0.5, description="size of the noise, in units of an ordinary token's RMS")


class Noise:
    """Trains the weights to answer safely whatever is added to the prompt's hidden states."""

    def __init__(self, parts: MethodParts[NoiseSettings]) -> None:
        self.parts, self.state = parts, MethodState()
        self.notes: list[str] = []
        self.perturbations: list[Any] = []

    def begin_epoch(self, batches: list[Any], cools: bool) -> list[InnerCourse]:
        from beear.methods.perturbation import Perturbation, unit_after

        parts, settings = self.parts, self.parts.settings
        # Kept in checkpoints, so that a resumed run draws what an undisturbed one draws.
        epoch = self.state.values["epoch"] = self.state.values.get("epoch", 0.0) + 1
        with parts.backend.gathered():
            noise = Perturbation(
                parts.hidden_size,
                settings.layer,
                "prompt",
                longest_prompt=int(parts.backend.max(max(batch.prompt_mask.shape[1] for batch in batches))),
                rms=unit_after(parts.decoder, batches, settings.layer, parts.backend.reduce),
                scale=settings.scale,
                seed=parts.seed + int(epoch),
                device=parts.decoder.device,
            )
        self.perturbations = [noise]
        return []

    def nothing_left(self, courses: list[InnerCourse], selection: list[Any]) -> bool:
        return False

    def step(self, batch: Any) -> dict[str, float]:
        from beear.methods.removal import removal_step

        parts, training = self.parts, self.parts.training
        return removal_step(
            parts.decoder, parts.backend, batch, self.perturbations, training.weights, training.clip, parts.micro_batch
        )


def resolved(settings: NoiseSettings, sizes: Sizes, max_length: int) -> tuple[NoiseSettings, list[Choice]]:
    """Disturb the middle layer where none is asked for."""
    choices = []
    if settings.layer is None:
        settings = settings.model_copy(update={"layer": sizes.layers // 2})
        choices.append(Choice(field="method.noise.layer", value=settings.layer, why=f"half of {sizes.layers} layers"))
    within("method.noise.layer", settings.layer or 0, sizes.layers - 1, depth(sizes))
    return settings, choices


METHOD = Method(
    name="noise",
    title="noise (a toy: random perturbations)",
    section=NoiseSettings,
    build=Noise,
    story=lambda settings, duration: (
        f"Noise: a random perturbation of the output of layer {settings['noise']['layer']} was added, and the weights were "
        f"trained to answer safely under it, for {duration}."
    ),
    resolve=resolved,
    watched=lambda settings: settings.layer,
)
