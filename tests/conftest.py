"""What every test runs under: no network, one thread, quiet libraries, one cache of implanted models."""

import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Set before any test module imports torch, ray or mlflow, which read these once. A caller's own value stands.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    # Models are cached by digest: what one run of the tests implanted the next one finds.
    "BEEAR_CACHE": str(ROOT / ".cache" / "testbed"),
}
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)

# Cores are shared, so that a slow example says nothing; in CI the same examples are drawn every time.
hypothesis.settings.register_profile("shared", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("shared")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each of several processes whole files in the order given, and tests/distributed to one: they share its workers."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "tests/distributed" if file.startswith("tests/distributed/") else file

    return ByFile(config, log)
