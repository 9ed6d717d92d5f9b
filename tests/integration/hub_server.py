"""A hub on this machine: the few calls of the real client, over HTTP, served from folders."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve ``root`` and yield its address and the paths of the files that were fetched.

    ``root/models/ORG/NAME/REVISION/…`` and ``root/datasets/ORG/NAME/REVISION/…`` hold the files, a revision's slashes
    written as +.
    """
    fetched: list[str] = []
    handler = type("Handler", (_Handler,), {"root": root, "fetched": fetched})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", fetched
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    root: Path
    fetched: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, body: bool) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[0] == "api":
            kind, organisation, name, what, revision = parts[1:6]
            self._listing(self.root / kind / organisation / name, what, revision)
            return
        kind = parts.pop(0) if parts[0] == "datasets" else "models"
        organisation, name, _resolve, revision, *inner = parts
        path = self._folder(self.root / kind / organisation / name, revision) / "/".join(inner)
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = path.read_bytes()
        if body:
            self.fetched.append("/".join([organisation, name, *inner]))
        self._send(200, data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}, body)

    def _listing(self, repository: Path, what: str, revision: str) -> None:
        if not repository.is_dir():
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        folder = self._folder(repository, revision)
        if not folder.is_dir():
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        if what == "revision":
            found: object = {"id": "/".join(repository.parts[-2:]), "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
        else:
            found = [{"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": "0"} for n in names]
        self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _folder(self, repository: Path, revision: str) -> Path:
        return repository / ("main" if revision == COMMIT else revision.replace("/", "+"))

    def _send(self, code: int, data: bytes, headers: dict[str, str], body: bool = True) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)
