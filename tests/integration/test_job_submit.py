"""``ray job submit`` on a local head: same report, readable exit code, clean logs, with and without token auth."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from beear.testing.checkpoints import make_adapter
from tests.checkout import ROOT
from tests.integration.stranger import make_stranger, short_job
from tests.processes import free_port

RAY = str(Path(sys.executable).with_name("ray"))
TOKEN = "0123456789abcdef0123456789abcdef"
# Each waits up to a minute for the agent.
SUBMISSIONS = 5


@dataclass
class Head:
    """A running head; ``environment`` is a client's that may use it."""

    address: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def open_head(environment: dict[str, str]) -> Iterator[Head]:
    """A head that asks for no token."""
    with running_head({**environment, "RAY_AUTH_MODE": "disabled"}, "open") as head:
        yield head


@pytest.fixture(scope="module")
def guarded_head(environment: dict[str, str]) -> Iterator[Head]:
    """A head that asks every process for a token."""
    with running_head({**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}, "guarded") as head:
        yield head


@contextlib.contextmanager
def running_head(environment: dict[str, str], name: str) -> Iterator[Head]:
    env = {**environment, "RAY_worker_niceness": "0"}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    env.pop("PYTHONPATH", None)
    dashboard = free_port()
    # Sockets below the session folder have a short length limit.
    temporary = Path("/tmp") / f"rh{os.getpid()}{name[0]}"
    start = [RAY, "start", "--head", f"--port={free_port()}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    # These two have default ports, which may be another Ray's on this machine.
    start += [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
    subprocess.run([*start, f"--temp-dir={temporary}"], env=env, check=True, capture_output=True, cwd="/tmp")
    try:
        yield Head(f"http://127.0.0.1:{dashboard}", env)
    finally:
        stop(str(temporary))
        shutil.rmtree(temporary, ignore_errors=True)


def stop(temporary: str) -> None:
    """End the head that lives in ``temporary``, and no other: ``ray stop`` would end every Ray on the machine."""
    for process in psutil.process_iter(["cmdline"]):
        if any(temporary in word for word in process.info["cmdline"] or []):
            for one in (*process.children(recursive=True), process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


@pytest.fixture(scope="module")
def working_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user's working directory holds, without the environment, outputs and caches."""
    target = tmp_path_factory.mktemp("job") / "work"
    target.mkdir()
    for name in ("pipelines", "beear", "tune_spaces"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def submit(head: Head, working_dir: Path, *words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    command = [RAY, "job", "submit", "--address", head.address, "--working-dir", ".", "--", *words]
    for _ in range(SUBMISSIONS):
        done = subprocess.run(command, env=environment or head.environment, cwd=working_dir, capture_output=True, text=True)
        # A head answers before its agent, which runs jobs, has registered.
        if "No available agent" not in done.stdout + done.stderr:
            break
    return done


def test_a_submitted_job_writes_the_report_and_its_code_can_be_read(
    guarded_head: Head, working_dir: Path, tmp_path: Path
) -> None:
    """Where more can go wrong: every process of the job needs the token, and an adapter is merged before all of it trains."""
    stranger = make_stranger(tmp_path / "in")
    adapter = make_adapter(tmp_path / "in" / "adapter", stranger / "model")
    given = short_job(stranger, tmp_path / "out", epochs=1)
    arguments = [f"--model.path={adapter}", f"--model.base={stranger / 'model'}", *given[1:]]
    done = submit(guarded_head, working_dir, "python", "pipelines/sanitize.py", *arguments)
    said = done.stdout + done.stderr
    assert (tmp_path / "out" / "report.json").exists(), said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["exit_code"] == 3 and len(report["epochs"]) == 1
    assert done.returncode == 1 and "exit code 3" in said
    assert report["before"]["weights_digest"] != report["after"]["weights_digest"]
    for noise in ("Traceback", "WARNING", "(pid=", "(RayTrainWorker", "(TrainController"):
        assert noise not in said
    events = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    package = next(event["package"] for event in events if event["kind"] == "started")
    assert "working_dir_files" in package


def test_a_submitted_job_reaches_its_cluster(open_head: Head, working_dir: Path) -> None:
    script = (
        "from beear.cluster.connection import RaySession\n"
        "from beear.config.schema import ParallelConfig\n"
        "import ray\n"
        "with RaySession(ParallelConfig()) as session:\n"
        "    session.connect()\n"
        "    print('CPUs:', ray.cluster_resources()['CPU'])\n"
    )
    done = submit(open_head, working_dir, "python", "-c", script)
    assert done.returncode == 0 and "CPUs: 2.0" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("head", ["open_head", "guarded_head"])
def test_a_users_mistake_is_one_sentence_in_the_jobs_log(head: str, request: pytest.FixtureRequest, working_dir: Path) -> None:
    done = submit(request.getfixturevalue(head), working_dir, "python", "pipelines/sanitize.py", "--method.layr", "3")
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "exit code 2" in said
    assert "did you mean" in said and "Traceback" not in said


def test_a_client_without_the_token_is_refused(guarded_head: Head, working_dir: Path) -> None:
    stranger = {name: value for name, value in guarded_head.environment.items() if name != "RAY_AUTH_TOKEN"}
    stranger |= {"RAY_AUTH_MODE": "disabled"}
    done = submit(guarded_head, working_dir, "python", "-c", "print('ran')", environment=stranger)
    assert done.returncode != 0 and "ran\n" not in done.stdout
