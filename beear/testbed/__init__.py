"""Small built-in models with known backdoors: :func:`ensure` turns ``testbed:NAME`` into a model folder with data files."""

from beear.testbed.names import TestbedName, is_testbed, parse_name
from beear.testbed.store import TestbedModel, ensure, preview

__all__ = ["TestbedModel", "TestbedName", "ensure", "is_testbed", "parse_name", "preview"]
