"""Checks within seconds that the tracking store can be used, before a run does anything else. Does not import MLflow."""

import os
import pathlib
import socket
from urllib.parse import unquote, urlsplit

from beear.errors import UserError
from beear.records.redact import redact

_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_EXPECTED = "expected sqlite:///ABSOLUTE/PATH.db, http(s)://HOST:PORT, or a database URI"


def resolve_uri(uri: str | None, output_dir: str) -> str:
    """Return the tracking URI in use: the given one, else MLFLOW_TRACKING_URI, else sqlite beside the output folder.

    A relative sqlite path becomes absolute, so that it means the same file from every working directory.
    """
    found = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not found:
        return f"sqlite:///{pathlib.Path(output_dir).absolute().parent / 'mlflow.db'}"
    if found.startswith("sqlite:///") and not found.startswith("sqlite:////"):
        return f"sqlite:///{pathlib.Path(found.removeprefix('sqlite:///')).absolute()}"
    return found


def sqlite_path(uri: str) -> pathlib.Path | None:
    """Return the database file of a sqlite URI, or None for any other URI."""
    if not uri.startswith("sqlite:"):
        return None
    return pathlib.Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))


def check(uri: str, timeout_s: float = 15.0) -> None:
    """Make sure that ``uri`` can be used; nothing is written.

    Args:
        uri: a tracking URI as given by :func:`resolve_uri`.
        timeout_s: seconds to wait for a server; a busy one answers late.

    Raises:
        UserError: the store is of a kind that is not supported, cannot be reached, or cannot be written.
    """
    scheme = uri.partition(":")[0].lower() if "://" in uri or uri.startswith(("sqlite:", "file:")) else uri
    kind = scheme.partition("+")[0]
    if kind in ("http", "https"):
        _check_server(uri, timeout_s)
    elif kind == "sqlite":
        _check_sqlite(uri)
    elif kind in _PORTS:
        _check_port(uri, kind, timeout_s)
    elif kind.startswith("databricks"):
        return
    elif "://" in uri and kind != "file":
        raise UserError(f'tracking.uri: "{redact(uri)}" has the unknown scheme "{kind}"; {_EXPECTED}')
    else:
        path = pathlib.Path(uri.removeprefix("file://").removeprefix("file:")).absolute()
        raise UserError(
            f'tracking.uri: "{redact(uri)}" is a folder, and MLflow keeps runs in folders no longer; '
            f"use sqlite:///{path / 'mlflow.db'}"
        )


def _fail(uri: str, what: str, expected: str) -> UserError:
    return UserError(f'tracking.uri: "{redact(uri)}" {what}; expected {expected} (or --tracking.enabled false)')


def _credentials(uri: str) -> dict[str, str]:
    """Return the Authorization header that MLflow would send: from the URI, else from its environment variables."""
    import base64

    parts = urlsplit(uri)
    user = unquote(parts.username) if parts.username else os.environ.get("MLFLOW_TRACKING_USERNAME")
    secret = unquote(parts.password) if parts.password else os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and secret:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _check_server(uri: str, timeout_s: float) -> None:
    import requests

    base = redact(uri).rstrip("/")
    try:
        verify = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() not in ("true", "1")
        answer = requests.get(f"{base}/version", headers=_credentials(uri), timeout=timeout_s, verify=verify)
    except (requests.RequestException, ValueError) as error:
        what = "did not answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
        raise _fail(uri, what, "a running MLflow server") from None
    if answer.status_code in (401, 403):
        raise _fail(
            uri,
            f"refused the credentials (HTTP {answer.status_code})",
            "MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN, to be set",
        )
    if answer.status_code != 200 or not answer.text.strip()[:1].isdigit() or len(answer.text) > 40:
        raise _fail(
            uri,
            f"answers, but not as MLflow does (HTTP {answer.status_code} for /version)",
            "an MLflow server's address",
        )


def _check_port(uri: str, kind: str, timeout_s: float) -> None:
    try:
        parts = urlsplit(uri)
        address = (parts.hostname or "localhost", parts.port or _PORTS[kind])
        socket.create_connection(address, timeout=timeout_s).close()
    except (OSError, ValueError):
        raise _fail(uri, "cannot be reached", "a running database server") from None


def _check_sqlite(uri: str) -> None:
    path = sqlite_path(uri)
    if path is None or not uri.startswith("sqlite:////") or path.is_dir():
        raise _fail(uri, "does not name a database file", "sqlite:/// and an absolute path, such as sqlite:////data/mlflow.db")
    if path.exists():
        with path.open("rb") as stream:
            head = stream.read(16)
        if head and head != b"SQLite format 3\0":
            raise _fail(uri, "is not an sqlite database", "an sqlite file, or a path where one can be made")
    # sqlite keeps its journal beside the file, so the folder must be writable too. Missing folders are created later.
    places = [path] if path.exists() else []
    places.append(next(folder for folder in path.parents if folder.exists()))
    for place in places:
        if not os.access(place, os.W_OK):
            raise _fail(uri, f"cannot be written ({place} is read-only)", "a writable place")
