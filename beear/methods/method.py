"""What a method is: one object that says all there is to say of a defense.

A method is registered in :mod:`beear.methods.table`, or offered by another package as an entry point. Commands read methods for
their help and their reports, so the file of a method imports torch only inside the functions that compute.
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
    """An inner loop on frozen weights, for the memory plan.

    ``layer``: the layer from which on gradients flow. ``batches``: fixed batches it goes over. ``fast``: it computes once what
    the perturbation cannot change. ``length``: perturbed positions at the prompt's end where there are no others, else None.
    """

    layer: int
    batches: int
    fast: bool = False
    length: int | None = None


@dataclass(frozen=True)
class Needs:
    """What a method asks of the data and of memory.

    ``inner``: its inner loop, None where it has none. ``inner_batches``: batches that ``begin_epoch`` is given. ``passes``: the
    activations that a removal step keeps, as a multiple of what one ordinary pass keeps.
    """

    inner_batches: int = 1
    inner: InnerLoop | None = None
    passes: float = 1.0


def as_asked(settings: Any, sizes: Sizes, max_length: int) -> tuple[Any, list[Choice]]:
    """Resolve settings that have no auto field."""
    return settings, []


def fits_anything(settings: Any, room: Mapping[str, int], shortest: str) -> None:
    """Accept any prompts."""


@dataclass(frozen=True)
class Method(Generic[S]):
    """A defense, as one object.

    Args:
        name: what ``method.name`` calls it.
        title: the name with a few words for the help.
        section: the class of its own fields: they stand at ``method.NAME.*`` in the configuration, the help and the identity.
        build: makes the defense on a worker.
        story: tells the report's reader what was done, in a sentence; takes the report's ``config["method"]`` and the length
            of the training in words ("6 epochs of 10 removal steps").
        needs: what it asks of data and memory, by its resolved settings.
        resolve: fills its auto fields in by the model's sizes and refuses what the model cannot have.
        check: refuses settings that the prompts have no room for. ``room``: positions in the shortest prompt, by what they are
            counted from (the ``prompt``'s end or the ``user`` text's end); ``shortest``: where that prompt stands.
        watched: the layer whose drift the report shows; None: round(0.28 L).
        search_defaults: other defaults of its fields in a search.
        flat: its fields stand at ``method.*`` itself. For the product's first method and its control alone.
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
