"""The configuration classes that commands parse: a run's and a search's, with the fields of every method.

The classes are made when they are first asked for, because installed packages may add methods and measures. A method's fields
are at ``method.NAME.*``. Those of ``beear`` and ``finetune`` are at ``method.*`` itself, where existing YAML files and
search spaces name them.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic import Field, SerializerFunctionWrapHandler, create_model, field_validator, model_serializer, model_validator

from beear.config import schema, search
from beear.config.resolve import Choice, ResolvedConfig, Sizes, resolve
from beear.config.schema import Share
from beear.errors import nearest
from beear.extensions import Table
from beear.methods.method import Method
from beear.methods.table import METHODS

C = TypeVar("C", bound=schema.RunConfig)


class Limit(Protocol):
    """The limit of a measure from another package: ``gate.NAME``."""

    @property
    def default(self) -> float:
        """The limit if none is asked for."""
        ...

    @property
    def description(self) -> str:
        """One line for the help."""
        ...


@runtime_checkable
class Measure(Protocol):
    """What is read here of a measure from another package; ``limit`` is read where it has one."""

    @property
    def name(self) -> str:
        """What ``gate.NAME`` and the report call it."""
        ...


@cache
def run_config() -> type[schema.RunConfig]:
    """Return the class of a run's configuration.

    Raises:
        UserError: a package that adds a method or a measure cannot be loaded.
    """
    return _with_sections(schema.RunConfig, _method_class(), _gate_class())


@cache
def tune_config() -> type[search.TuneConfig]:
    """Return the class of a search's configuration. Trials have their own defaults.

    Raises:
        UserError: a package that adds a method or a measure cannot be loaded.
    """
    return _with_sections(search.TuneConfig, _search_method_class(), _gate_class())


def resolved(asked: schema.RunConfig, sizes: Sizes) -> tuple[ResolvedConfig, list[Choice]]:
    """Return the settings with every auto field filled in, also the chosen method's own, and the choices made.

    Raises:
        UserError: a setting does not fit the model.
    """
    return resolve(asked, METHODS[asked.method.name], sizes)


@cache
def _method_class() -> type[schema.MethodConfig]:
    return method_class(list(METHODS.values()))


def method_class(methods: Sequence[Method]) -> type[schema.MethodConfig]:
    """Return the method section with the fields of all ``methods``.

    It refuses fields of a method that is not chosen, and leaves them out when it is written: a method that is merely installed
    changes neither the record nor the identity of a run.
    """
    names = [method.name for method in methods]
    flat_sections = tuple(dict.fromkeys(method.section for method in methods if method.flat))
    flat_fields = {name for section in flat_sections for name in section.model_fields}
    nested = {method.name: method.section for method in methods if not method.flat and method.section.model_fields}
    flat_methods = {method.name for method in methods if method.flat}

    def known_method(value: str) -> str:
        if value not in names:
            raise ValueError(f'unknown method "{value}"{nearest(value, names)}; expected {" or ".join(names)}')
        return value

    def only_the_chosen_method(self: schema.MethodConfig) -> schema.MethodConfig:
        for name, section in nested.items():
            if name != self.name and getattr(self, name) != section():
                raise ValueError(f"method.{name} is given and method.name is {self.name}; expected method.name {name}")
        if self.name not in flat_methods:
            for name in sorted(flat_fields):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"method.{name} is given and method.name is {self.name}, which has no such field")
        return self

    def without_other_methods(self: schema.MethodConfig, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        others = {name for name in nested if name != self.name} | (set() if self.name in flat_methods else flat_fields)
        return {name: value for name, value in write(self).items() if name not in others}

    chosen = Field("beear", description=", or ".join(method.title for method in methods))
    fields: dict[str, Any] = {"name": (str, chosen)}
    for name, section in nested.items():
        fields[name] = (section, Field(default_factory=section, description=f"the fields of {name} alone"))
    return create_model(
        "MethodConfig",
        __base__=(*flat_sections, schema.MethodConfig),  # type: ignore[arg-type]  # mixed-in sections
        __module__=__name__,
        __doc__=schema.MethodConfig.__doc__,
        __validators__={
            "known_method": field_validator("name")(known_method),
            "only_the_chosen_method": model_validator(mode="after")(only_the_chosen_method),  # type: ignore[dict-item]
            "without_other_methods": model_serializer(mode="wrap")(without_other_methods),  # type: ignore[dict-item]
        },
        **fields,
    )


@cache
def _search_method_class() -> type[schema.MethodConfig]:
    """Return the method section of a search: some fields have other defaults than in a run."""
    base, fields = _method_class(), dict[str, Any]()
    for method in METHODS.values():
        for name, value in method.search_defaults.items() if method.flat else ():
            known = base.model_fields[name]
            fields[name] = (known.rebuild_annotation(), Field(value, description=known.description))
    return create_model("SearchMethodConfig", __base__=base, __module__=__name__, __doc__=base.__doc__, **fields)


@cache
def _gate_class() -> type[schema.GateConfig]:
    """Return the gate's section with the limits of measures from other packages; the product's own are in the schema."""
    # The table of measures is in a room above this one, so it cannot be imported here. The entry points can be read.
    known = schema.GateConfig.model_fields
    measures: Table[Measure] = Table("beear.measures", Measure, [], taken=known)  # type: ignore[type-abstract]
    limits: dict[str, Limit] = {one.name: limit for one in measures.added if (limit := getattr(one, "limit", None))}
    fields: dict[str, Any] = {
        name: (Share, Field(limit.default, description=limit.description)) for name, limit in limits.items()
    }
    return create_model(
        "GateConfig", __base__=schema.GateConfig, __module__=__name__, __doc__=schema.GateConfig.__doc__, **fields
    )


def _with_sections(base: type[C], method: type[schema.MethodConfig], gate: type[schema.GateConfig]) -> type[C]:
    fields: dict[str, Any] = {
        "method": (method, Field(default_factory=method, description="the defense")),
        "gate": (gate, Field(default_factory=gate, description="verdict bounds")),
    }
    return create_model(base.__name__, __base__=base, __module__=__name__, __doc__=base.__doc__, **fields)


# The names below must not be imported above: they would hide the classes that this module makes.
def __getattr__(name: str) -> Any:
    """Return a class by its name. pickle looks classes up here when a configuration travels to a worker.

    Python calls this only for names that the module does not have, so the module must not import their base classes by name.
    """
    classes = {
        "RunConfig": run_config,
        "TuneConfig": tune_config,
        "MethodConfig": _method_class,
        "SearchMethodConfig": _search_method_class,
        "GateConfig": _gate_class,
    }
    if name not in classes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return classes[name]()
