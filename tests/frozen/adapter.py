"""The one place where the frozen surfaces touch the package's own modules: what moves inside is followed here alone."""

from typing import Any
from unittest import mock

from beear.config.build import build
from beear.methods.configuration import run_config, tune_config
from beear.models.facts import ModelFacts
from beear.records.search import SearchReport
from beear.run import identity as rules
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
    return {kind.__name__: kind().model_dump(mode="json") for kind in (run_config(), tune_config(), ImplantConfig)}


def search_schema() -> dict[str, Any]:
    """Return the JSON schema of a search's record."""
    return SearchReport.model_json_schema(mode="serialization")


def identity(changes: dict[str, Any], data: dict[str, str], kind: str) -> str:
    """Return the identity of a run whose default configuration has ``changes`` (by dotted name), at a fixed code version."""
    asked = build(run_config(), changes, {})
    values, template = asked.model_dump(mode="json"), asked.model.chat_template
    with mock.patch.object(rules, "code_version", lambda: CODE):
        return rules.run_identity(values, asked.evaluate.keywords, template, ModelFacts(**FACTS), list(data.values()), kind)
