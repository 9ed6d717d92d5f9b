"""Puts the configuration classes together that commands parse: the run's own sections and what methods and measures add.

A method's fields stand at ``method.NAME.*``, those of the product's first method (and its control) at ``method.*`` itself,
where every search space and YAML file names them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, create_model, field_validator, model_serializer, model_validator

from beear.config.schema import GateConfig, MethodConfig, RunConfig, Section, Share
from beear.errors import nearest

C = TypeVar("C", bound=RunConfig)


class MethodFields(Protocol):
    """What the configuration needs to know of a method.

    ``title`` is its name with a few words for the help. ``flat``: its ``section`` stands at ``method.*``, not below its name.
    """

    @property
    def name(self) -> str:
        """What ``method.name`` calls it."""
        ...

    @property
    def title(self) -> str:
        """The name, with a few words for the help."""
        ...

    @property
    def section(self) -> type[Section]:
        """The class of its own fields."""
        ...

    @property
    def flat(self) -> bool:
        """Whether its fields stand at ``method.*``."""
        ...


class GateLimit(Protocol):
    """A bound that a measure brings: ``gate.NAME``."""

    @property
    def default(self) -> float:
        """The bound where none is asked for."""
        ...

    @property
    def description(self) -> str:
        """One line for the help."""
        ...


def method_class(base: type[MethodConfig], methods: Sequence[MethodFields], module: str) -> type[MethodConfig]:
    """Return ``base`` with the fields of all ``methods``; ``module`` is where the class can be imported from."""
    names = [method.name for method in methods]
    flat = tuple(dict.fromkeys(method.section for method in methods if method.flat))
    beside = {name for section in flat for name in section.model_fields}
    below = {method.name: method.section for method in methods if not method.flat and method.section.model_fields}
    with_those_beside = {method.name for method in methods if method.flat}

    def known(value: str) -> str:
        if value not in names:
            raise ValueError(f'unknown method "{value}"{nearest(value, names)}; expected {" or ".join(names)}')
        return value

    def only_the_chosen(self: MethodConfig) -> MethodConfig:
        for name, section in below.items():
            if name != self.name and getattr(self, name) != section():
                raise ValueError(f"method.{name} is given and method.name is {self.name}; expected method.name {name}")
        if self.name not in with_those_beside:
            for name in sorted(beside):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"method.{name} is given and method.name is {self.name}, which has no such field")
        return self

    def without_the_others(self: MethodConfig, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A method that is merely installed leaves no trace in a run's record and identity.
        others = {name for name in below if name != self.name} | (set() if self.name in with_those_beside else beside)
        return {name: value for name, value in write(self).items() if name not in others}

    chosen = Field("beear", description=", or ".join(method.title for method in methods))
    fields: dict[str, Any] = {"name": (str, chosen)}
    for name, section in below.items():
        fields[name] = (section, Field(default_factory=section, description=f"the fields of {name} alone"))
    return create_model(
        base.__name__,
        __base__=(*flat, base),  # type: ignore[arg-type]  # sections beside the method's
        __module__=module,
        __doc__=base.__doc__,
        __validators__={
            "known_method": field_validator("name")(known),
            "only_the_chosen_method": model_validator(mode="after")(only_the_chosen),  # type: ignore[dict-item]
            "without_other_methods": model_serializer(mode="wrap")(without_the_others),  # type: ignore[dict-item]
        },
        **fields,
    )


def gate_class(limits: Mapping[str, GateLimit], module: str) -> type[GateConfig]:
    """Return the gate's section with a bound for each measure in ``limits``."""
    fields: dict[str, Any] = {
        name: (Share, Field(limit.default, description=limit.description)) for name, limit in limits.items()
    }
    return create_model("GateConfig", __base__=GateConfig, __module__=module, __doc__=GateConfig.__doc__, **fields)


def with_defaults(base: type[MethodConfig], defaults: Mapping[str, Any], name: str) -> type[MethodConfig]:
    """Return ``base`` as the class ``name``, where the fields in ``defaults`` have other defaults."""
    fields: dict[str, Any] = {}
    for field, value in defaults.items():
        known = base.model_fields[field]
        fields[field] = (known.rebuild_annotation(), Field(value, description=known.description))
    return create_model(name, __base__=base, __module__=base.__module__, __doc__=base.__doc__, **fields)


def run_class(base: type[C], method: type[MethodConfig], gate: type[GateConfig], module: str) -> type[C]:
    """Return ``base``, a run's or a search's configuration, with these two sections."""
    fields: dict[str, Any] = {
        "method": (method, Field(default_factory=method, description="the defense")),
        "gate": (gate, Field(default_factory=gate, description="verdict bounds")),
    }
    return create_model(base.__name__, __base__=base, __module__=module, __doc__=base.__doc__, **fields)
