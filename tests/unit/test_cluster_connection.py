"""A command's one connection to Ray: opened when it is first asked for, once, and closed by who opened it."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from beear.cluster.connection import RaySession
from beear.config.schema import ParallelConfig
from beear.errors import UserError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was asked of Ray, in order."""
    found: list[str] = []

    def init(**named: Any) -> None:
        found.append(f"init {named['address']}")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: found.append("shutdown"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield found
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_session_connects_once_and_only_when_asked(calls: list[str]) -> None:
    with RaySession(ParallelConfig()) as session:
        assert calls == []
        session.connect()
        session.connect()
        assert calls == ["init local"]
    assert calls == ["init local", "shutdown"]


def test_a_session_that_nobody_asked_closes_nothing(calls: list[str]) -> None:
    with RaySession(ParallelConfig()):
        pass
    assert calls == []


def test_it_is_closed_after_a_failure_and_may_be_opened_again(calls: list[str]) -> None:
    session = RaySession(ParallelConfig())
    with pytest.raises(LookupError), session:
        session.connect()
        raise LookupError
    assert calls == ["init local", "shutdown"]
    with session:
        session.connect()
    assert calls == ["init local", "shutdown"] * 2


def test_an_address_where_nothing_answers_is_one_sentence_and_nothing_is_open(calls: list[str]) -> None:
    session = RaySession(ParallelConfig(address="127.0.0.1:1"))
    with pytest.raises(UserError, match="parallel.address: nothing answers at 127.0.0.1:1 "), session:
        session.connect()
    assert calls == []
