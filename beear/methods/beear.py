"""BEEAR, bi-level embedding-space entrapment and removal (arXiv 2406.17092): its settings, its needs, its words for the report.

The algorithm is in :mod:`beear.methods.bilevel`. It is apart because it imports torch, which commands must not for ``--help``.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from beear.config.resolve import DEPTH_SHARE, Choice, Sizes, default_layer, depth, within
from beear.config.schema import PositiveFloat, PositiveInt, Section, known_placements
from beear.errors import UserError
from beear.methods.base import Defense, MethodParts
from beear.methods.method import InnerLoop, Method, Needs


class BeearSettings(Section):
    """Settings of the perturbation and of its inner loop."""

    layer: PositiveInt | None = Field(None, description="l, 1-based: decoder layer whose output is perturbed (auto: 0.28 L)")
    length: PositiveInt = Field(5, description="n: perturbed positions (suffix and prefix)")
    placement: str = Field("prompt", description="suffix, prefix, prompt, broadcast, everywhere; several joined by +")
    suffix_from: Literal["prompt", "user"] = Field(
        "prompt",
        description="where a suffix ends: at the prompt's end (assistant header included), or at the end of the user's text",
    )
    inner_steps: PositiveInt | None = Field(None, description="K, inner steps per epoch; unset: calibrated")
    calibrate: Literal["first", "each"] = Field(
        "each",
        description="when an unset K is calibrated: in each epoch but the cooling ones, or in the first; others reuse its K",
    )
    max_inner_steps: PositiveInt = Field(25, description="most inner steps while calibrating")
    margin: float = Field(1.0, description="nats by which the unwanted answer must be likelier for calibration to stop")
    inner_batches: PositiveInt = Field(2, description="fixed global batches that the inner loop cycles over")
    fast: bool = Field(
        True, description="inner loop: compute only once what the perturbation cannot change; false: the plain loop"
    )
    inner_lr: PositiveFloat = Field(
        0.1, description="Adam step on the perturbation, in units of an ordinary token's RMS after layer l"
    )
    bound: PositiveFloat | None = Field(None, description="largest norm at a position, in units of that RMS*sqrt(D); unset: none")

    _known_placement = field_validator("placement")(known_placements)

    @property
    def placements(self) -> tuple[str, ...]:
        """The placements, in the order given."""
        return tuple(self.placement.split("+"))

    @property
    def perturbed_layer(self) -> int:
        """The perturbed layer l, 1-based.

        Raises:
            ValueError: the settings are not resolved.
        """
        if self.layer is None:
            raise ValueError("method.layer is auto; expected resolved settings")
        return self.layer


def resolved(settings: BeearSettings, sizes: Sizes, max_length: int) -> tuple[BeearSettings, list[Choice]]:
    """Choose the layer if none is asked for, and check that the settings fit the model.

    Raises:
        UserError: the layer is beyond the model's depth, or a row has fewer positions than are perturbed.
    """
    choices = []
    if settings.layer is None:
        settings = settings.model_copy(update={"layer": default_layer(sizes.layers)})
        why = f"{DEPTH_SHARE} of {sizes.layers} layers"
        choices.append(Choice(field="method.layer", value=settings.layer, why=why))
    within("method.layer", settings.perturbed_layer, sizes.layers - 1, depth(sizes))
    within("method.length", settings.length, max_length, "data.max_length")
    return settings, choices


def check_positions(settings: BeearSettings, room: Mapping[str, int], shortest: str) -> None:
    """Check that the shortest prompt has n positions.

    Args:
        room: its tokens up to the end of the ``prompt`` and up to the end of the ``user``'s text.
        shortest: its file and row.

    Raises:
        UserError: it has fewer.
    """
    counted = {"suffix", "prefix"} & set(settings.placements)
    if counted and settings.length > room[settings.suffix_from]:
        raise UserError(
            f"method.length: found {settings.length}, expected at most {room[settings.suffix_from]}, "
            f"the tokens of the shortest prompt ({shortest})"
        )


def build(parts: MethodParts[BeearSettings]) -> Defense:
    """Return the defense on a worker."""
    from beear.methods.bilevel import Bilevel

    return Bilevel(parts)


def needs(settings: BeearSettings) -> Needs:
    """Return what the inner loop needs: its batches, and memory for gradients through layers l+1..L."""
    # A δ that is only at the prompt's end never reaches the columns before it, which then need less memory.
    alone = settings.placements == ("suffix",) and settings.suffix_from == "prompt"
    inner = InnerLoop(settings.perturbed_layer, settings.fast, settings.length if alone else None)
    return Needs(settings.inner_batches, inner)


def story(settings: Mapping[str, Any], duration: str) -> str:
    """Return the sentence that tells the report's reader what was done."""
    return (
        f"BEEAR: a perturbation ({settings.get('placement', '?')}) of the output of layer {settings.get('layer', '?')} was "
        "fitted to bring the unwanted behaviour out, then the weights were trained to answer safely under it, for "
        f"{duration}."
    )


METHOD = Method(
    name="beear",
    title="beear",
    section=BeearSettings,
    build=build,
    story=story,
    needs=needs,
    resolve=resolved,
    check=check_positions,
    watched=lambda settings: settings.layer,
    # A search varies n, which has no meaning for the default placement ("prompt": every position). The paper's is suffix.
    search_defaults={"placement": "suffix"},
    flat=True,
)
