"""What integration tests share: commands as a user calls them, in processes of their own or in this one with one Ray."""

import contextlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beear.cluster.connection import RaySession
from beear.config.cli import parse
from beear.config.entry import run_entry
from beear.config.schema import ParallelConfig
from beear.methods import configuration
from tests.checkout import ROOT
from tests.in_process import run_here

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """A user's environment, without what other tests set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(scope="session")
def pipeline(environment: dict[str, str]) -> Run:
    """Run ``pipelines/NAME.py`` with arguments in a process; the completed process has its texts and exit code."""

    def run(name: str, *arguments: str, cwd: Path = ROOT, env: dict[str, str] = environment) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "pipelines" / f"{name}.py"), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, cwd=cwd)

    return run


class SharedRay:
    """One local Ray for all tests of this process that need one, started when first asked for.

    Starting it costs seconds, and so does every library that its workers import again.
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self._session: RaySession | None = None

    def open(self) -> RaySession:
        """Return the session, connected."""
        if self._session is None:
            self._session = RaySession(ParallelConfig())
            # Its processes are in the folder where it is started, and a test's own may go.
            with contextlib.chdir(ROOT):
                self._session.connect()
        return self._session

    def close(self) -> None:
        """End Ray where it runs; the next test that asks starts another."""
        if self._session is not None:
            self._session.__exit__()
            self._session = None


@pytest.fixture(scope="session")
def _shared_ray() -> Iterator[SharedRay]:
    shared = SharedRay()
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def session(_shared_ray: SharedRay) -> RaySession:
    """The one local Ray, running; the test's process is connected to it."""
    return _shared_ray.open()


@pytest.fixture(scope="module")
def no_session(_shared_ray: SharedRay) -> None:
    """No Ray is connected to this process, so that the test can start its own."""
    _shared_ray.close()


@pytest.fixture(scope="module")
def command(session: RaySession) -> Run:
    """Run the command NAME with arguments in this process, with the one local Ray; the result is a process's.

    What a process alone can show (it imports, leaves, is killed, prints nothing else) is tested with ``pipeline``.
    """

    def run(name: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        def main() -> int:
            asked, flags = parse(configuration.tune_config() if name == "tune" else configuration.run_config(), arguments)
            # An address is tried as a process does.
            mine = RaySession(asked.parallel) if asked.parallel.address else session
            code: int = getattr(importlib.import_module(f"beear.commands.{name}"), name)(asked, flags, mine)
            return code

        return run_here([name, *arguments], lambda: run_entry(main), cwd)

    return run
