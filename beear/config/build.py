"""A checked configuration from dotted values, whatever they came from."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from beear.config import problems
from beear.config.fields import FieldSpec, leaves
from beear.config.yaml_file import flatten, nest, read_mapping

C = TypeVar("C", bound=BaseModel)


def read_values(path: str, known: Mapping[str, FieldSpec]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a YAML file's values by dotted name, and where each stands (``run.yaml, line 3: ``).

    Raises:
        UserError: the file cannot be read as a YAML mapping.
    """
    mapping, lines = read_mapping(path)
    values = flatten(mapping, known)
    return values, {name: f"{path}, line {lines[name]}: " if name in lines else f"{path}: " for name in values}


def build(config_class: type[C], values: Mapping[str, Any], places: Mapping[str, str]) -> C:
    """Return the configuration that ``values`` (by dotted name) and the defaults make.

    Args:
        config_class: the configuration's class.
        values: by dotted name; unknown names are errors.
        places: by dotted name, where the value was found, as the start of a sentence; missing ones add nothing.

    Raises:
        UserError: unknown fields or wrong values; the first is named, the others are counted.
    """
    known = leaves(config_class)
    values = {name: _reset(value, known.get(name)) for name, value in values.items()}
    found = list(problems.unknown({name: places.get(name, "") for name in values}, known))
    found += problems.misread(values, places, known)
    usable = {name: value for name, value in values.items() if name in known}
    try:
        config = config_class.model_validate(nest(usable))
    except ValidationError as error:
        problems.raise_first(found + list(problems.invalid(error, places, known)))
        raise
    problems.raise_first(found)
    return config


def _reset(value: Any, spec: FieldSpec | None) -> Any:
    """Read ``auto``, which help and documentation show as the default, as the unset that it stands for.

    YAML reads a bare ``on`` or ``off`` as true or false: where those are choices, they are meant as words.
    """
    if spec and isinstance(value, bool) and {"on", "off"} <= set(spec.choices):
        return "on" if value else "off"
    return None if spec and spec.auto and value == "auto" else value
