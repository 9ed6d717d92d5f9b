"""The methods by name; a new one is one file and one entry (and its name in ``config.schema.METHODS``)."""

from collections.abc import Callable

from beear.methods.base import Method, MethodParts
from beear.methods.beear import Beear
from beear.methods.finetune import Finetune

TABLE: dict[str, Callable[[MethodParts], Method]] = {"beear": Beear, "finetune": Finetune}


def build(parts: MethodParts) -> Method:
    """Build the configured method."""
    return TABLE[parts.config.name](parts)
