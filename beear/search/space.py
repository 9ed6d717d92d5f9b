"""A search space: which fields are tried with which values, from ``tune_spaces/<family>.py`` or a YAML file.

A family's module has ``ARCHITECTURES`` (the architectures it is for), ``SPACE`` (dotted field to domain: the core) and
``ASKED`` (groups of further fields, which are searched when asked for). Families are found by listing the package: a
new one is one file.
"""

import importlib
import math
import pkgutil
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import ModuleType
from typing import Any

from beear.config.domains import Between, Depth, Domain, OneOf
from beear.config.fields import leaves
from beear.errors import UserError, nearest
from beear.methods.configuration import run_config
from beear.search.space_file import CALIBRATED, STEPS, is_file, read_domains

PACKAGE = "tune_spaces"
# The family of every architecture that no space names.
GENERIC = "generic"


@dataclass(frozen=True)
class Space:
    """What is searched: ``domains`` by dotted field of a run's configuration, layers already those of the model.

    ``family`` is the family's name, or the file that the space was read from.
    """

    family: str
    domains: dict[str, OneOf | Between]

    def sample(self, draw: random.Random) -> dict[str, Any]:
        """Return one setting drawn at random: a value for each searched field."""
        return {field: domain.sample(draw) for field, domain in self.domains.items()}

    def grid(self) -> list[dict[str, Any]]:
        """Return every setting, the last field varying fastest.

        Raises:
            UserError: a field's range has no end of values.
        """
        columns = []
        for field, domain in self.domains.items():
            if (values := domain.values()) is None:
                raise UserError(
                    f"search.algorithm is grid and {field} is searched from {_words(field, domain)}; "
                    "expected a list of values for a grid to try, or random or optuna"
                )
            columns.append(values)
        return [dict(zip(self.domains, setting, strict=True)) for setting in product(*columns)]

    def size(self) -> int | None:
        """Return how many settings there are; None where there is no end of them."""
        columns = [domain.values() for domain in self.domains.values()]
        return math.prod(len(values or ()) for values in columns) if None not in columns else None

    def at_most(self, field: str, most: int, why: str) -> "Space":
        """Return the space without the values of ``field`` that are above ``most``.

        Raises:
            UserError: no value is left.
        """
        if field not in self.domains:
            return self
        if (left := self.domains[field].at_most(most)) is None:
            raise UserError(
                f"search.space: {field} is searched from {_words(field, self.domains[field])}; expected a value of at most "
                f"{most}, {why}"
            )
        return replace(self, domains={**self.domains, field: left})

    def ends(self) -> list[dict[str, Any]]:
        """Return settings of one field each, which hold every value or the ends of its range."""
        return [{field: value} for field, domain in self.domains.items() for value in domain.ends()]

    def described(self) -> dict[str, str]:
        """Return each field's domain in words, such as ``2, 3, 5`` or ``1e-05 to 0.001 (log)``."""
        return {field: _words(field, domain) for field, domain in self.domains.items()}


def known_families() -> list[str]:
    """Return the families that have a space, sorted."""
    return sorted(found.name for found in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__))


def family_of(architecture: str) -> str:
    """Return the family whose space names the architecture, such as llama for LlamaForCausalLM; generic where none does."""
    return next((family for family in known_families() if architecture in _module(family).ARCHITECTURES), GENERIC)


def load_space(name: str, also: Sequence[str], layers: int) -> Space:
    """Return the space of a family or a YAML file, for a model of L ``layers``.

    Args:
        name: a family, or the path of a YAML file.
        also: groups of fields searched beside the family's core.
        layers: the model's decoder layers, at least 2.

    Raises:
        UserError: no such family, group or file, or a mistake in the file.
    """
    families = known_families()
    if name in families:
        module = _module(name)
        domains: dict[str, Domain] = dict(module.SPACE)
        for group in also:
            domains |= _group(module, group)
        return Space(name, {f: d.one_of(layers) if isinstance(d, Depth) else d for f, d in domains.items()})
    if not is_file(name):
        raise UserError(
            f'search.space is "{name}"{nearest(name, families)}; expected {", ".join(families)}, or a file ending in .yaml'
        )
    if also:
        raise UserError(
            f'search.also is "{"+".join(also)}" and search.space a file; expected one of the two: the file names all its fields'
        )
    return Space(name, read_domains(name, layers))


def _module(family: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{family}")


def _group(module: ModuleType, group: str) -> dict[str, Domain]:
    groups: dict[str, dict[str, Domain]] = module.ASKED
    if group not in groups:
        hint = nearest(group, list(groups))
        raise UserError(f'search.also names "{group}"{hint}; expected {", ".join(groups)}, or several joined by +')
    return groups[group]


def _words(field: str, domain: OneOf | Between) -> str:
    if isinstance(domain, OneOf):
        return ", ".join(_unset(field) if option is None else str(option) for option in domain.options)
    notes = [note for note, holds in (("log", domain.log), ("whole numbers", domain.whole)) if holds]
    return f"{domain.low:g} to {domain.high:g}" + (f" ({', '.join(notes)})" if notes else "")


def _unset(field: str) -> str:
    if field == STEPS:
        return CALIBRATED
    return "auto" if leaves(run_config())[field].auto else "none"
