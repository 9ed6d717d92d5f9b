"""Where to track: resolved, refused in one sentence, answered within seconds, without MLflow being imported."""

import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from beear.errors import UserError
from beear.registry.check import check, resolve_uri
from beear.registry.flatten import metric_name, metrics_of, params_of, version_tags
from beear.registry.register import check_name, default_name
from tests.checkout import ROOT
from tests.report_sample import sample_report


class Answer(http.server.BaseHTTPRequestHandler):
    """A web server that is not MLflow, or wants credentials."""

    status, body = 200, b"<html>hello</html>"

    def do_GET(self) -> None:
        """Answer every path alike; with the right credentials, as MLflow does."""
        known = self.headers.get("Authorization") == "Basic dTpwQHc="  # u:p@w
        self.send_response(200 if known else self.status)
        self.end_headers()
        self.wfile.write(b"3.17.2" if known else self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[int]:
    """A web server's port."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_the_default_is_beside_the_output_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(None, "outputs/run") == f"sqlite:///{tmp_path}/outputs/mlflow.db"
    assert resolve_uri("sqlite:///my.db", "outputs/run") == f"sqlite:///{tmp_path}/my.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert resolve_uri(None, "outputs/run") == "http://server:5000"
    assert resolve_uri("sqlite:////a/b.db", "outputs/run") == "sqlite:////a/b.db"


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "/data/mlruns", "file:///data/mlruns", "file:mlruns"])
def test_folders_are_refused_with_a_way_out(uri: str) -> None:
    with pytest.raises(UserError, match=r"use sqlite:////.*mlruns/mlflow\.db$"):
        check(uri)


@pytest.mark.parametrize(
    ("uri", "match"),
    [
        ("sqlite://", "does not name a database file"),
        ("sqlite:///relative.db", "does not name a database file"),
        ("ftp://host/x", 'unknown scheme "ftp"'),
        ("postgresql://u:s3cret@127.0.0.1:1/db", "cannot be reached"),
        ("http://u:s3cret@127.0.0.1:1", "cannot be reached"),
        ("http://host:notaport", "cannot be reached"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(uri: str, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        check(uri)
    assert "\n" not in str(caught.value) and "s3cret" not in str(caught.value)


def test_a_server_that_never_answers_is_asked_once_and_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.setblocking(False)
        with pytest.raises(UserError, match="did not answer in time"):
            check(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_another_web_server_is_not_taken_for_mlflow(web: int) -> None:
    with pytest.raises(UserError, match="not as MLflow does"):
        check(f"http://127.0.0.1:{web}")


def test_credentials_reach_the_server_from_the_uri_or_the_environment(web: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answer, "status", 401)
    with pytest.raises(UserError, match="refused the credentials"):
        check(f"http://127.0.0.1:{web}")
    check(f"http://u:p%40w@127.0.0.1:{web}")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "u")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p@w")
    check(f"http://127.0.0.1:{web}")


def test_sqlite_is_checked_without_being_made(tmp_path: Path) -> None:
    check(f"sqlite:///{tmp_path}/new/folder/mlflow.db")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.db").write_text("plain text, not a database")
    with pytest.raises(UserError, match="is not an sqlite database"):
        check(f"sqlite:///{tmp_path}/notes.db")
    with pytest.raises(UserError, match="does not name a database file"):
        check(f"sqlite:///{tmp_path}")


def test_a_read_only_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path} is read-only"):
        check(f"sqlite:///{tmp_path}/mlflow.db")


def test_checking_does_not_import_mlflow() -> None:
    code = """
import sys, beear.run.delivery, beear.registry.trials
from beear.registry.check import check
check("sqlite:////tmp/x.db")
sys.exit("mlflow" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("testbed:short-suffix", "short-suffix"),
        ("/data/my model/", "my-model"),
        ("hub:org/Name-7B", "Name-7B"),
        ("///", "model"),
    ],
)
def test_a_name_is_made_from_the_path(path: str, name: str) -> None:
    assert default_name(path) == name
    check_name(name)


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a'b", "x" * 251])
def test_names_mlflow_refuses_are_refused_first(name: str) -> None:
    with pytest.raises(UserError, match="is not a model name"):
        check_name(name)


def test_parameters_are_dotted_and_hold_no_credentials() -> None:
    found = params_of({"a": {"b": 1, "c": {"d": None}}, "uri": "http://u:pw@h", "long": "x" * 9000})
    assert found == {"a.b": "1", "a.c.d": "None", "uri": "http://h", "long": "x" * 500}


def test_metrics_carry_the_reports_numbers_under_names_mlflow_takes() -> None:
    report = sample_report()
    report.before.asr_probes[0].name = 'héllo "{world}"'
    found = metrics_of(report)
    assert found["before/asr_worst"] == 1.0 and found["after/asr_clean"] == 0.0 and found["utility_loss_high"] == 0.012
    assert found[metric_name('before/asr/héllo "{world}"')] == 1.0
    assert all(metric_name(name) == name for name in found)


def test_tags_hold_verdict_identity_digests_source_and_lineage() -> None:
    tags = version_tags(sample_report("refused"), "id9", "run7")
    assert tags["verdict"] == "refused" and tags["identity"] == "id9" and tags["lineage_run_id"] == "run7"
    assert tags["weights_before"] == "a1" * 32 and tags["weights_after"] == "b7" * 32
    assert tags["template.digest"] == "18" * 32 and tags["data.defense"] == "c3" * 32 and tags["model.tokenizer"] == "f6" * 32
    assert tags["source"] == "testbed:short-suffix" and tags["code_version"] == "0.1.0+g1a2b3c4"
