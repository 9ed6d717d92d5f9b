"""Configurations for tests: as they are asked for, and as a small model resolves them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beear.config.build import build
from beear.config.resolve import Choice, ResolvedConfig, Sizes
from beear.methods import configuration
from beear.methods.base import MethodParts
from beear.methods.table import METHODS


@dataclass(frozen=True)
class Sized:
    """What the rules need to know of a model: by default a testbed model's."""

    layers: int = 6
    context: int = 512
    parameters: int = 1_400_000


def asked(values: Mapping[str, Any] | None = None) -> Any:
    """Return what the main command would parse, from values by dotted name."""
    return build(configuration.run_config(), values or {}, {})


def asked_search(values: Mapping[str, Any] | None = None) -> Any:
    """Return what the search would parse."""
    return build(configuration.tune_config(), values or {}, {})


def resolving(values: Mapping[str, Any] | None = None, sizes: Sizes | None = None) -> tuple[ResolvedConfig, list[Choice]]:
    """Return the same with no auto field left, for a model of such ``sizes``, and what was chosen."""
    return configuration.resolved(asked(values), sizes or Sized())


def resolved(values: Mapping[str, Any] | None = None, sizes: Sizes | None = None) -> Any:
    """Return what :func:`resolving` does, without the choices."""
    return resolving(values, sizes)[0]


def value_at(values: Mapping[str, Any], name: str) -> Any:
    """Return the value of a dotted name in plain data."""
    found: Any = values
    for part in name.split("."):
        found = found[part]
    return found


def method_of(decoder: Any, backend: Any, micro_batch: int | None = None, name: str = "beear", **values: Any) -> Any:
    """Return a method at work on a tiny model (four layers, D = 16), with ``values`` of ``method.*``."""
    config = resolved({"method.name": name, **{f"method.{field}": value for field, value in values.items()}}, Sized(layers=4))
    return METHODS[name].build(MethodParts(decoder, backend, config.settings, config.method, 0, 16, micro_batch))
