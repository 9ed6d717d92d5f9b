"""Take credentials out of text before it is logged, tagged, written or shown."""

import re
from typing import Any

_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*://)[^/\s?#]*@")
_QUERY = re.compile(r"(?P<key>[?&;][^=&;#\s]*(?:password|passwd|pwd|token|secret|key|signature|sig)[^=&;#\s]*=)[^&;#\s]*", re.I)


def redact(text: str) -> str:
    """Return ``text`` with ``user:password@`` and secret query values taken out of every URI in it.

    The user is taken out too, so that what is left is an address that works with credentials from the environment.
    """
    return _QUERY.sub(r"\g<key>***", _USERINFO.sub(r"\g<scheme>", text))


def redact_all(value: Any) -> Any:
    """Return plain data (dicts, lists, strings, numbers) with :func:`redact` applied to every string in it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_all(key): redact_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(item) for item in value]
    return value
