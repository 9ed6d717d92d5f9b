"""The configuration classes that commands parse: a run's and a search's, with every method's own fields.

Classes are put together when they are first asked for, since other packages may add methods and measures. They can be
imported from here by name, so that configurations travel to workers.
"""

from functools import cache
from typing import Any

from beear.config import schema, search
from beear.config.compose import gate_class, method_class, run_class, with_defaults
from beear.config.resolve import Choice, ResolvedConfig, Sizes, resolve
from beear.extensions import Table
from beear.methods.table import METHODS


@cache
def run_config() -> type[schema.RunConfig]:
    """Return the class of a run's configuration.

    Raises:
        UserError: a package that adds a method or a measure cannot be loaded.
    """
    return run_class(schema.RunConfig, _method(), _gate(), __name__)


@cache
def tune_config() -> type[search.TuneConfig]:
    """Return the class of a search's configuration: trials have defaults of their own.

    Raises:
        UserError: as :func:`run_config`.
    """
    return run_class(search.TuneConfig, _search_method(), _gate(), __name__)


def resolved(asked: schema.RunConfig, sizes: Sizes) -> tuple[ResolvedConfig, list[Choice]]:
    """Return the settings with no auto field left, by the chosen method's rules too, and what was chosen.

    Raises:
        UserError: a setting that the model cannot have.
    """
    return resolve(asked, METHODS[asked.method.name], sizes)


@cache
def _method() -> type[schema.MethodConfig]:
    return method_class(schema.MethodConfig, list(METHODS.values()), __name__)


@cache
def _search_method() -> type[schema.MethodConfig]:
    defaults = {field: value for method in METHODS.values() for field, value in method.search_defaults.items() if method.flat}
    return with_defaults(_method(), defaults, "SearchMethodConfig")


@cache
def _gate() -> type[schema.GateConfig]:
    # Measures lie above methods; only those of other packages add a bound, and the table of entry points knows them.
    measures: Table[Any] = Table("beear.measures", object, [])
    limits = {measure.name: measure.limit for measure in measures.added if getattr(measure, "limit", None)}
    return gate_class(limits, __name__)


def __getattr__(name: str) -> Any:
    """Return a class by its name; pickle looks it up here."""
    classes = {
        "RunConfig": run_config,
        "TuneConfig": tune_config,
        "MethodConfig": _method,
        "SearchMethodConfig": _search_method,
        "GateConfig": _gate,
    }
    if name not in classes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return classes[name]()
