"""Finds the local directory of a model path; only ``hub:ORG/NAME`` is fetched."""

import re
from pathlib import Path

from beear.errors import UserError

HUB = "hub:"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PATTERNS = ["*.safetensors", "*.json", "*.jinja", "merges.txt", "tokenizer.model"]


def local_folder(path: str, field: str = "model.path") -> tuple[Path, str | None]:
    """Return the local directory of a model path and, where it was fetched, the path as it was asked for (else None).

    ``hub:ORG/NAME`` (or ``hub:ORG/NAME@REVISION``) is fetched into the hub cache, or found there when offline.

    Raises:
        UserError: no such directory, not a directory, a built-in name that nobody resolved, an unreachable hub.
    """
    if path.startswith(HUB):
        return _fetch(path.removeprefix(HUB), field), path
    if path.startswith("testbed:"):
        raise UserError(f'{field}: found the built-in name "{path}", expected it turned into a directory before inspection')
    if re.match(r"[a-z][a-z0-9+.-]+://", path):
        raise UserError(f'{field}: found "{path}", expected a local directory or {HUB}ORG/NAME')
    folder = Path(path).expanduser().absolute()
    if folder.is_dir():
        return folder, None
    if folder.exists():
        raise UserError(f"{field}: {path} is a file, expected the directory that holds config.json and the weights")
    hint = f"; to fetch it from the hub write {HUB}{path}" if HUB_ID.fullmatch(path) else ""
    raise UserError(f'{field}: found no directory "{path}", expected a directory, {HUB}ORG/NAME or testbed:NAME{hint}')


def _fetch(name: str, field: str) -> Path:
    repository, _, revision = name.partition("@")
    if not HUB_ID.fullmatch(repository):
        raise UserError(f'{field}: found "{HUB}{name}", expected {HUB}ORG/NAME or {HUB}ORG/NAME@REVISION')
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=PATTERNS))
    # The hub client raises many types of error (offline, unknown, gated, timeouts); the user gets one sentence.
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{field}: {HUB}{name} could not be fetched ({type(error).__name__}: {first[:160]}), "
            "expected a reachable hub repository or one already in the cache"
        ) from error
    if not any(folder.glob("*.safetensors")):
        at = f" --revision {revision}" if revision else ""
        raise UserError(
            f"{field}: {HUB}{name} has no safetensors, expected some; where it has pickles or GGUF, fetch them with "
            f"hf download {repository}{at} --local-dir DIR and convert them with python -m beear.models.convert DIR OUT"
        )
    return folder
