"""The one place where the frozen surfaces touch the package's own modules: what moves inside is followed here alone."""

from typing import Any
from unittest import mock

from beear.config.schema import RunConfig
from beear.config.search import TuneConfig
from beear.models.facts import ModelFacts
from beear.orchestration import identity as rules
from beear.report.search_schema import SearchReport
from beear.testbed.config import ImplantConfig

CODE = "frozen"
# A model that no file stands behind.
FACTS = {
    "path": "m",
    "architecture": "LlamaForCausalLM",
    "model_type": "llama",
    "layers": 4,
    "hidden_size": 16,
    "vocab_size": 61,
    "context": 128,
    "parameters": 1000,
    "tied": True,
    "source_dtype": "float32",
    "digests": {"weights": "w", "tokenizer": "t"},
    "chat_template": "template",
}


def configurations() -> dict[str, dict[str, Any]]:
    """Return each configuration as plain data, with its defaults."""
    return {kind.__name__: kind().model_dump(mode="json") for kind in (RunConfig, TuneConfig, ImplantConfig)}


def search_schema() -> dict[str, Any]:
    """Return the JSON schema of a search's record."""
    return SearchReport.model_json_schema(mode="serialization")


def identity(changes: dict[str, Any], data: dict[str, str], kind: str) -> str:
    """Return the identity of a run whose default configuration has ``changes`` (by dotted name), at a fixed code version."""
    config = RunConfig()
    for name, value in changes.items():
        section, _, field = name.rpartition(".")
        holder: Any = config
        for part in filter(None, section.split(".")):
            holder = getattr(holder, part)
        setattr(holder, field, value)
    with mock.patch.object(rules, "code_version", lambda: CODE):
        return rules.run_identity(config, ModelFacts(**FACTS), data, kind)
