"""A configuration as YAML and back, and its digest."""

import hashlib
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from beear.config.build import build, read_values
from beear.config.fields import FieldSpec, leaves

C = TypeVar("C", bound=BaseModel)

# Where results go, who hears of them and how the work is spread: none of it changes what is computed.
NOT_IN_DIGEST = frozenset(
    {"output", "tracking", "parallel", "search.concurrent", "search.max_failures", "search.warm", "search.apply"}
)


def to_yaml(config: BaseModel, comments: bool = False) -> str:
    """Return the configuration as YAML that :func:`load_yaml` reads back equal.

    Args:
        config: any configuration.
        comments: put each field's description above it.
    """
    values = config.model_dump(mode="json")
    return "\n".join(_commented(values, leaves(type(config)))) + "\n" if comments else _yaml(values)


def load_yaml(path: str | Path, config_class: type[C]) -> C:
    """Return the configuration in a YAML file.

    Raises:
        UserError: not a readable YAML mapping, an unknown field or a wrong value.
    """
    values, places = read_values(str(path), leaves(config_class))
    return build(config_class, values, places)


def config_digest(values: Mapping[str, Any], leave_out: frozenset[str] = NOT_IN_DIGEST) -> str:
    """Return the sha256 (hex) of a configuration, given as plain data, without the sections and fields in ``leave_out``."""
    kept = {
        section: {field: value for field, value in held.items() if f"{section}.{field}" not in leave_out}
        if isinstance(held, Mapping)
        else held
        for section, held in values.items()
        if section not in leave_out
    }
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10_000)


def _commented(values: dict[str, Any], known: dict[str, FieldSpec], prefix: str = "") -> list[str]:
    lines: list[str] = []
    pad = "  " * prefix.count(".")
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in known:
            lines += [f"{pad}# {known[name].description}", textwrap.indent(_yaml({key: value}).rstrip("\n"), pad)]
        else:
            lines += [f"{pad}{key}:", *_commented(value, known, f"{name}.")]
    return lines
