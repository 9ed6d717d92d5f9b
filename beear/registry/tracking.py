"""The names other rooms use: where to track, whether it can be reached, and a run."""

from beear.registry.check import check, resolve_uri
from beear.registry.run import Run

__all__ = ["Run", "check", "resolve_uri"]
