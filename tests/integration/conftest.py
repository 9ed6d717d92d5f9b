"""What integration tests share: the command line as a user calls it, in a clean environment."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """A user's environment, without what other tests set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(scope="session")
def pipeline(environment: dict[str, str]) -> Run:
    """Run ``pipelines/NAME.py`` with arguments; the completed process has its texts and exit code."""

    def run(
        name: str, *arguments: str, timeout: float = 300, cwd: Path = ROOT, cache: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "pipelines" / f"{name}.py"), *arguments],
            env=environment | ({"BEEAR_CACHE": str(cache)} if cache else {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=cwd,
        )

    return run
