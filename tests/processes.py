"""What runs beside a test: waiting for what it does, however slow the machine, and a real MLflow server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import requests

from tests.checkout import ROOT

T = TypeVar("T")


def until(found: Callable[[], T], process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> T:
    """Return the first value of ``found()`` that is true. The process that makes it so must live; the test's timeout ends a hang.

    Raises:
        AssertionError: the process ended before.
    """
    while not (value := found()):
        assert process.poll() is None, f"it ended with {process.returncode} before what was waited for"
        time.sleep(0.05)
    return value


def lines_until(process: "subprocess.Popen[str]", words: str) -> list[str]:
    """Return the lines that a process says up to the first with ``words``, of stderr where that has a pipe of its own.

    Raises:
        AssertionError: it ended without.
    """
    said: list[str] = []
    for line in process.stderr or process.stdout or ():
        said.append(line)
        if words in line:
            return said
    raise AssertionError("".join(said))


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def in_one_process(environment: dict[str, str], calls: Sequence[Sequence[str]]) -> "list[subprocess.CompletedProcess[str]]":
    """Call ``sanitize`` with each of these arguments in one process, which imports everything once; none may need Ray."""
    script = (
        "import json, os, sys\n"
        "from tests.frozen.commands import call_here\n"
        "offline = os.environ['HF_HUB_OFFLINE']\n"
        "done = [call_here('sanitize', words, HF_HUB_OFFLINE=offline) for words in json.loads(sys.argv[1])]\n"
        "print(json.dumps([(one.args, one.returncode, one.stdout, one.stderr) for one in done]))\n"
    )
    command = [sys.executable, "-c", script, json.dumps(calls)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return [subprocess.CompletedProcess(*one) for one in json.loads(done.stdout.splitlines()[-1])]


class MlflowServer:
    """A real ``mlflow server`` on loopback that proxies artifacts; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        """Choose a port; nothing is started. ``folder`` keeps its database, its artifacts and its log."""
        self.folder, port = folder, free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self._arguments = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def artifacts(self) -> Path:
        """Where the server keeps what is uploaded."""
        return self.folder / "artifacts"

    def start(self) -> None:
        """Start it, unless it runs, and wait until it is healthy."""
        if self._process:
            return
        places = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--artifacts-destination", str(self.artifacts)]
        quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *self._arguments, *places],
                stdout=log, stderr=log, start_new_session=True, env=quiet, cwd=self.folder,
            )  # fmt: skip
        try:
            until(self._healthy, self._process)
        except AssertionError as error:
            raise AssertionError((self.folder / "server.log").read_text()) from error

    def kill(self) -> None:
        """Kill it and its workers."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _healthy(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=60).ok
        except requests.RequestException:
            return False
