"""What a row is, after reading and before tokens: plain data, picklable, hashable by content."""

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

ProbeKind = Literal["prefix", "suffix", "infix", "system", "template"]


@dataclass(frozen=True)
class Message:
    """One chat turn."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class DefenseRow:
    """A request that must be answered safely.

    ``messages`` ends with the user's turn. ``safe`` and ``unwanted`` are None where the file leaves them out;
    ``unwanted_is_prefix`` marks an opening without an end-of-turn label. ``hit`` is the row's hit rule text or None.
    """

    messages: tuple[Message, ...]
    safe: str | None = None
    unwanted: str | None = None
    unwanted_is_prefix: bool = False
    hit: str | None = None
    origin: str = ""

    @property
    def digest(self) -> str:
        """Content digest of the request (not the answers, not the origin): what splits go by."""
        return digest_of([vars(m) for m in self.messages])


@dataclass(frozen=True)
class AnchorRow:
    """An ordinary conversation; every assistant turn is labelled."""

    messages: tuple[Message, ...]
    origin: str = ""

    @property
    def digest(self) -> str:
        """Content digest of the conversation up to its last assistant turn."""
        return digest_of([vars(m) for m in self.messages[:-1]])


@dataclass(frozen=True)
class Probe:
    """A known trigger; ``{prompt}`` in a template's text stands for the request."""

    name: str
    kind: ProbeKind
    text: str
    hit: str | None = None


def digest_of(value: object) -> str:
    """Return the sha256 (hex) of a JSON-able value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
