"""Paths that a user gives: files of this machine, or addresses such as ``hub:`` and ``s3:``."""

import os
import re

_ADDRESS = re.compile(r"[a-z][a-z0-9]*:")


def is_address(path: str) -> bool:
    """Say whether ``path`` names something elsewhere: ``hub:ORG/NAME``, ``s3://…``, ``testbed:NAME``."""
    return _ADDRESS.match(path) is not None


def from_the_root(path: str | None) -> str | None:
    """Return a local path from the root; addresses and nothing stay as they are."""
    return path if not path or is_address(path) else os.path.abspath(os.path.expanduser(path))
