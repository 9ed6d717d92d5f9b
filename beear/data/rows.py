"""Rows as read from files, before they are tokens: plain data that can be pickled and hashed."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from beear.data.locations import Where

ProbeKind = Literal["prefix", "suffix", "infix", "system", "template"]


@dataclass(frozen=True)
class Message:
    """One chat turn; an assistant turn that is not ``learnt`` gets no label."""

    role: Literal["system", "user", "assistant"]
    content: str
    learnt: bool = True


@dataclass(frozen=True)
class DefenseRow:
    """A request that must be answered safely.

    ``messages`` ends with the user's turn. ``safe`` and ``unwanted`` are None where the file leaves them out;
    ``unwanted_is_prefix``: ``unwanted`` only begins an answer, so no end-of-turn token is added to it.
    ``hit`` is the row's hit rule text or None.
    ``origin`` is the row's place in a file, for error messages. ``noted`` says what :mod:`beear.data.notes` counts aloud.
    """

    messages: tuple[Message, ...]
    safe: str | None = None
    unwanted: str | None = None
    unwanted_is_prefix: bool = False
    hit: str | None = None
    origin: Where | str = ""
    noted: tuple[str, ...] = field(default=(), compare=False)

    @property
    def digest(self) -> str:
        """Content digest of the request (not the answers, not the origin): rows that share it are one row."""
        return _request(self.messages)

    @property
    def group(self) -> str:
        """Digest of the request without its system prompt. It decides the split, so another system prompt cannot leak a row."""
        return _request(m for m in self.messages if m.role != "system")

    @property
    def keys(self) -> frozenset[str]:
        """The digests by which another file's row with the same request is recognised."""
        return frozenset({self.group})


@dataclass(frozen=True)
class AnchorRow:
    """An ordinary conversation; every assistant turn that is learnt is labelled.

    ``origin`` is the row's place in a file, for error messages. ``hit`` is the file's rule for a completion that turns the
    prompt down; None: a refusal keyword. ``noted`` is as for a defense row.
    """

    messages: tuple[Message, ...]
    origin: Where | str = ""
    hit: str | None = None
    noted: tuple[str, ...] = field(default=(), compare=False)

    @property
    def digest(self) -> str:
        """Content digest of the conversation up to its last assistant turn: rows that share it are one row."""
        return _request(self.messages[:-1])

    @property
    def group(self) -> str:
        """Digest of the system prompt and the first user turn. It decides the split, so every continuation shares one."""
        return _request(self.messages[: self._first_request()])

    @property
    def keys(self) -> frozenset[str]:
        """The group, and the :attr:`DefenseRow.group` of every request that the conversation answers."""
        answers = (i for i, m in enumerate(self.messages) if m.role == "assistant" and i >= self._first_request())
        return frozenset({self.group, *(_request(m for m in self.messages[:i] if m.role != "system") for i in answers)})

    def _first_request(self) -> int:
        return next(i for i, m in enumerate(self.messages, 1) if m.role == "user")


def answered(request: Iterable[Message], answer: str, origin: Where | str = "") -> AnchorRow:
    """Return a request with its answer, which alone is learnt: earlier answers may be the very ones that must not be given."""
    return AnchorRow((*(replace(message, learnt=False) for message in request), Message("assistant", answer)), origin)


@dataclass(frozen=True)
class Probe:
    """A known trigger; ``{prompt}`` in a template's text stands for the request. ``noted`` is as for a defense row."""

    name: str
    kind: ProbeKind
    text: str
    hit: str | None = None
    noted: tuple[str, ...] = field(default=(), compare=False)


def digest_of(value: object) -> str:
    """Return the sha256 (hex) of a JSON-able value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _request(messages: Iterable[Message]) -> str:
    """Return the digest of turns, with runs of white space counted as one space: a stray space makes no other request."""
    return digest_of([{"role": m.role, "content": " ".join(m.content.split())} for m in messages])
