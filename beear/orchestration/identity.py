"""What makes two runs the same run: weights, tokenizer, template, data, configuration and code."""

import hashlib
import json
from functools import cache
from pathlib import Path

from beear import __version__
from beear.config.schema import RunConfig
from beear.models.facts import ModelFacts

# What these fields hold decides where a run goes and who hears of it, never what it computes.
PLACES = ("output", "tracking", "parallel")


@cache
def code_version() -> str:
    """Return ``version+digest`` of the package's own source, so that changed code never passes for the same run."""
    root, total = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{total.hexdigest()[:12]}"


def run_identity(config: RunConfig, facts: ModelFacts, data_digests: dict[str, str], kind: str) -> str:
    """Return the identity digest (hex) of a run. Paths do not count, contents do.

    ``data_digests`` maps a role (defense, anchor, probes …) to its files' digest.
    """
    settings = config.model_dump(mode="json", exclude=set(PLACES))
    settings["model"].pop("path")
    settings["model"].pop("base")
    for role in ("defense", "anchor", "probes"):
        settings["data"][role] = {k: v for k, v in settings["data"][role].items() if not k.endswith("path")}
    whole = {
        "kind": kind,
        "config": settings,
        "workers": config.parallel.workers,
        "model": facts.digests,
        "template": facts.chat_template,
        "data": data_digests,
        "code": code_version(),
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()
