"""Built-in small models and an attack zoo: ``testbed:NAME`` becomes a directory before anything else looks at it."""

from beear.testbed.names import TestbedName, is_testbed, parse_name
from beear.testbed.store import TestbedModel, ensure, preview

__all__ = ["TestbedModel", "TestbedName", "ensure", "is_testbed", "parse_name", "preview"]
