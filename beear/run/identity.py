"""What makes two runs the same run: weights, tokenizer, template, data, configuration and code."""

import hashlib
import json
from functools import cache
from pathlib import Path

from beear import __version__
from beear.config.dump import config_digest
from beear.config.schema import RunConfig
from beear.data.refusals import load_keywords
from beear.models.facts import ModelFacts


@cache
def code_version() -> str:
    """Return ``version+digest`` of the package's own source, so that changed code never passes for the same run."""
    root, total = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{total.hexdigest()[:12]}"


def run_identity(config: RunConfig, facts: ModelFacts, data_digests: dict[str, str], kind: str) -> str:
    """Return the identity digest (hex) of a run. Paths do not count, contents do.

    Nor does how the work is spread: the numbers are the same, so a run goes on with other workers.

    ``data_digests`` maps files to digests, in the order defense, anchor, probes.
    """
    settings = config.model_copy(deep=True)
    settings.model.path, settings.model.base = "", None
    for role in (settings.data.defense, settings.data.anchor, settings.data.probes):
        role.path = None
    for held in (settings.data.defense, settings.data.anchor):
        # That a separate report file is given counts, its place does not.
        held.report_path = "" if held.report_path else None
    template = config.model.chat_template
    whole = {
        "kind": kind,
        "config": config_digest(settings),
        "model": facts.digests,
        "template": Path(template).read_text(encoding="utf-8") if template else facts.chat_template,
        "keywords": load_keywords(config.evaluate.keywords),
        "data": list(data_digests.values()),
        "code": code_version(),
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()
