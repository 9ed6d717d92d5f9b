"""A run's identity: a digest of weights, tokenizer, template, data, configuration and code."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from beear import __version__
from beear.data.refusals import load_keywords
from beear.models.facts import ModelFacts
from beear.models.tokenizer_files import template_file

# These decide where results go, who is told and how the work is spread over workers. None of them changes a result.
NOT_IN_DIGEST = frozenset(
    {"output", "tracking", "parallel", "search.concurrent", "search.max_failures", "search.warm", "search.apply"}
)


@cache
def code_version() -> str:
    """Return ``version+digest`` of the package's source, so that a run of changed code has another identity."""
    root, total = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{total.hexdigest()[:12]}"


def run_identity(
    values: Mapping[str, Any], keywords: str, chat_template: str | None, facts: ModelFacts, files: Sequence[str], kind: str
) -> str:
    """Return the identity digest (hex) of a run. Contents count, places do not.

    How the work is spread does not count either: the numbers are the same, so a run goes on with other workers.

    Args:
        values: the resolved configuration as plain data.
        keywords: the refusal keyword list, by name or file.
        chat_template: the .jinja file or named template that stands in for the checkpoint's own, if any.
        facts: the checkpoint.
        files: digests of the data files, in the order defense, anchor, probes.
        kind: which command the run is of.
    """
    whole = {
        "kind": kind,
        "config": config_digest(_without_places(values)),
        "model": facts.digests,
        "template": template_file(chat_template).read_text(encoding="utf-8") if chat_template else facts.chat_template,
        "keywords": load_keywords(keywords),
        "data": list(files),
        "code": code_version(),
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()


def config_digest(values: Mapping[str, Any], leave_out: frozenset[str] = NOT_IN_DIGEST) -> str:
    """Return the sha256 (hex) of a configuration, given as plain data, without the sections and fields in ``leave_out``."""
    kept = {
        section: {field: value for field, value in held.items() if f"{section}.{field}" not in leave_out}
        if isinstance(held, Mapping)
        else held
        for section, held in values.items()
        if section not in leave_out
    }
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _without_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with paths blanked out; that a separate report file is given counts."""
    data = dict(values["data"])
    for role in ("defense", "anchor", "probes"):
        data[role] = {**data[role], "path": None}
        if "report_path" in data[role]:
            data[role]["report_path"] = "" if data[role]["report_path"] else None
    return {**values, "model": {**values["model"], "path": "", "base": None}, "data": data}
