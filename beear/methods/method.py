"""A method: one object that says everything about a defense.

Methods are listed in :mod:`beear.methods.table` or offered by another package as an entry point. Commands read them for help and
reports, so a method's file imports torch only inside the functions that compute.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from beear.config.resolve import Choice, Sizes
from beear.config.schema import Section
from beear.methods.base import Defense, MethodParts

S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class InnerLoop:
    """An inner loop on frozen weights, as the memory plan sees it.

    Args:
        layer: the perturbed layer, 1-based; gradients flow through the layers after it.
        fast: it computes only once what the perturbation cannot change.
        length: perturbed positions at the prompt's end, if no others are perturbed; else None.
    """

    layer: int
    fast: bool = False
    length: int | None = None


@dataclass(frozen=True)
class Needs:
    """What a method needs of data and memory.

    Args:
        inner_batches: batches that ``begin_epoch`` is given.
        inner: its inner loop, or None.
        passes: activations that a removal step keeps, as a multiple of those of one ordinary pass. 1 if each part of
            the loss is backpropagated before the next pass; 2 if a clean and a perturbed pass are held together.
    """

    inner_batches: int = 1
    inner: InnerLoop | None = None
    passes: float = 1.0


def as_asked(settings: Any, sizes: Sizes, max_length: int) -> tuple[Any, list[Choice]]:
    """Return settings that have no auto field as they are."""
    return settings, []


def fits_anything(settings: Any, room: Mapping[str, int], shortest: str) -> None:
    """Accept any prompts."""


@dataclass(frozen=True)
class Method(Generic[S]):
    """Everything about a defense.

    Args:
        name: what ``method.name`` calls it.
        title: the name, with a few words for the help.
        section: the class of its own fields. They are at ``method.NAME.*`` in the configuration, the help and the identity.
        build: returns the defense on a worker.
        story: returns a sentence that tells the report's reader what was done. It is given the report's ``config["method"]``, in
            which its own fields are under its name, and the length of the training in words ("6 epochs of 10 removal steps").
        needs: returns what it needs of data and memory, by its resolved settings.
        resolve: fills in its auto fields by the model's sizes, and raises UserError for settings that do not fit the model. It is
            given the settings, the sizes and the most tokens of a row.
        check: raises UserError for settings that do not fit the prompts. It is given the settings; the positions of the shortest
            prompt, up to the end of the ``prompt`` and up to the end of the ``user``'s text; and where that prompt is (file,
            row).
        watched: returns the layer whose drift the report shows; None: round(0.28 L). (Not
            ``Decoder.watched``, which shows hidden states.)
        search_defaults: defaults of its fields that differ in a search. Read only where ``flat``.
        flat: its fields are at ``method.*`` itself. Only ``beear`` and ``finetune``.
    """

    name: str
    title: str
    section: type[S]
    build: Callable[[MethodParts[S]], Defense]
    story: Callable[[Mapping[str, Any], str], str]
    needs: Callable[[S], Needs] = lambda _settings: Needs()
    resolve: Callable[[S, Sizes, int], tuple[S, list[Choice]]] = as_asked
    check: Callable[[S, Mapping[str, int], str], None] = fits_anything
    watched: Callable[[S], int | None] = lambda _settings: None
    search_defaults: Mapping[str, Any] = field(default_factory=dict)
    flat: bool = False
