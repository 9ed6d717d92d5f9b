"""A search space in a YAML file: fields, dotted or in sections as run configurations have them, with what to try.

::

    method:
      layer: {depth: [0.2, 0.3, 0.4]}       # shares of the model's depth, or a list of layers
      length: [2, 5, 10]
      inner_steps: [calibrated, 10, 25]     # calibrated: K is found in the run
      inner_lr: {low: 0.01, high: 0.3, log: true}
      outer_steps: {low: 5, high: 20, whole: true}

Every value is checked by the field that it is for, before anything runs.
"""

from operator import attrgetter
from typing import Any

from beear.config.build import build, raise_all, shown, unknown_fields
from beear.config.domains import Between, Depth, OneOf
from beear.config.fields import FieldSpec, leaves
from beear.config.resolve import default_layer
from beear.config.yaml_file import read_values
from beear.errors import UserError, nearest
from beear.methods.configuration import run_config

LAYER, STEPS = "method.layer", "method.inner_steps"
# How a file says that K is left to the run.
CALIBRATED = "calibrated"
# Other sections say what is trained or measured, and on what: trials that differ in those cannot be compared, and some
# defaults hang on them.
SECTION = "method"
# Schedulers compare trials by it.
EPOCHS = "method.epochs"
RANGE = ("low", "high", "log", "whole")


def is_file(name: str) -> bool:
    """Say whether a space's name is meant as a file."""
    return name.endswith((".yaml", ".yml"))


def read_domains(path: str, layers: int) -> dict[str, OneOf | Between]:
    """Return the file's domains by dotted field, for a model of L ``layers``.

    Raises:
        UserError: the file cannot be read, a field is unknown or not for searching, or cannot have such a value.
    """
    known = leaves(run_config())
    values, places = read_values(path, known)
    raise_all(unknown_fields(places, known))
    if not values:
        raise UserError(f"{path}: names no field; expected at least one to search, such as {LAYER}: [2, 3]")
    return {name: _Field(known[name], places[name], layers).domain(value) for name, value in values.items()}


class _Field:
    """One searched field: turns what the file says of it into a domain, or raises a UserError."""

    def __init__(self, spec: FieldSpec, where: str, layers: int) -> None:
        """``where`` starts a sentence: the file and the line."""
        self.spec, self.name, self.where, self.layers = spec, spec.name, where, layers
        if self.name.split(".")[0] != SECTION:
            raise self.wrong("is not searched; expected a field of method, so that all trials are measured alike")
        if self.name == EPOCHS:
            raise self.wrong("is not searched: trials are compared by epoch; give all of them one number on the command line")

    def wrong(self, words: str) -> UserError:
        """Return the error that says ``words`` of the field."""
        return UserError(f"{self.where}{self.name} {words}")

    def domain(self, value: Any) -> OneOf | Between:
        """Return the domain that a list of values, or a mapping with a range or depths, stands for."""
        try:
            if isinstance(value, list):
                return OneOf(*(self.taken(option) for option in value))
            if isinstance(value, dict):
                return self.depths(value["depth"]) if self.keys(value) == {"depth"} else self.range(value)
        except ValueError as error:
            raise self.wrong(str(error)) from None
        depth = ", or a mapping with depth" if self.name == LAYER else ""
        raise self.wrong(f"is {shown(value)}; expected a list of values, or a mapping with low and high{depth}")

    def keys(self, value: dict[Any, Any]) -> set[str]:
        """Return the mapping's keys, all of them known and together a range or depths."""
        known = [*RANGE, "depth"] if self.name == LAYER else list(RANGE)
        for key in map(str, value):
            if key not in known:
                raise self.wrong(f'has the key "{key}"{nearest(key, known)}; expected {", ".join(known)}')
        if "depth" in value and len(value) > 1:
            raise self.wrong("has other keys beside depth; expected depth alone, or low and high")
        return set(value)

    def depths(self, fractions: Any) -> OneOf:
        """Return the layers at shares of the depth."""
        if not isinstance(fractions, list):
            raise self.wrong(f"has depth {shown(fractions)}; expected a list of shares of the depth, such as [0.2, 0.3]")
        for fraction in fractions:
            if isinstance(fraction, bool) or not isinstance(fraction, int | float):
                raise self.wrong(f"has depth {shown(fraction)}; expected shares of the depth, above 0 and below 1")
        return Depth(*fractions).one_of(self.layers)

    def range(self, value: dict[str, Any]) -> Between:
        """Return the numbers from low to high; only whole ones where the field takes no others."""
        if not {int, float} & set(self.spec.types):
            raise self.wrong(f"has low and high; expected a list of values, each {self.spec.expected}")
        for key in ("log", "whole"):
            if not isinstance(value.get(key, False), bool):
                raise self.wrong(f"has {key} {shown(value[key])}; expected true or false")
        whole_only = float not in self.spec.types
        if whole_only and not value.get("whole", True):
            raise self.wrong(f"has whole false; expected true, for it takes {self.spec.expected}")
        low, high = (self.end(value, key) for key in ("low", "high"))
        return Between(low, high, value.get("log", False), value.get("whole", whole_only))

    def end(self, value: dict[str, Any], key: str) -> float:
        """Return one end of a range."""
        if value.get(key) is None:
            raise self.wrong(f"has no {key}; expected low and high")
        if (end := self.taken(value[key])) is None:
            raise self.wrong(f"has {key} {shown(value[key])}; expected a number")
        return float(end)

    def taken(self, option: Any) -> Any:
        """Return one value as the field takes it; None for one that leaves it unset."""
        unset = ("none", CALIBRATED) if self.name == STEPS else ("none",)
        if self.spec.optional and str not in self.spec.types and option in unset:
            option = None
        config = build(run_config(), {self.name: option}, {self.name: self.where})
        value: Any = attrgetter(self.name)(config)
        if self.name != LAYER:
            return value
        layer = default_layer(self.layers) if value is None else value
        if layer > self.layers - 1:
            raise self.wrong(f"is {layer}; expected 1 to {self.layers - 1} (the model has {self.layers} decoder layers)")
        return layer
