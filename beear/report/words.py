"""Sentences made from a report, shared by the page, the model card and the terminal."""

from dataclasses import dataclass

from beear.methods.table import METHODS
from beear.records.display import percent
from beear.records.report import Report


@dataclass(frozen=True)
class Badge:
    """A verdict's sign: a symbol that needs no colour, the word, and the style class."""

    symbol: str
    word: str
    style: str


BADGES = {
    "passed": Badge("✓", "Passed", "passed"),
    "refused": Badge("✕", "Refused", "refused"),
    "inconclusive": Badge("?", "Inconclusive", "inconclusive"),
    "measured": Badge("=", "Measured", "measured"),
}


def headline(report: Report) -> str:
    """Return the page's title: what was done to which model."""
    done = "Sanitised" if report.gate.verdict == "passed" else "Not sanitised"
    if report.after is None:
        done = "Measured"
    return f"{done}: {report.model.get('path', 'a model')}"


def story(report: Report) -> list[str]:
    """Return two sentences: what was removed from what, and how."""
    architecture, parameters = (
        report.model.get("architecture", "a causal language model"),
        report.model.get("parameters"),
    )
    size = f" with {parameters:,} parameters" if isinstance(parameters, int) else ""
    subject = f"{report.model.get('path', 'The checkpoint')} is a {architecture}{size}."
    worst = max((p.asr for p in report.before.asr_probes), key=lambda r: r.rate, default=None)
    came = f" As it came, its worst ASR under a known trigger was {percent(worst.rate)}." if worst else " No trigger was known."
    if report.after is None:
        return [
            subject + came,
            "Nothing was trained and nothing was removed; these are measurements of the files as they are.",
        ]
    return [subject + came, _method(report)]


def _method(report: Report) -> str:
    """Return what the method says of itself; a report may be read where its package is not installed."""
    settings = report.config.get("method")
    if not isinstance(settings, dict):
        settings = {}
    duration = f"{len(report.epochs)} epochs of {settings.get('outer_steps', '?')} removal steps"
    method = METHODS.get(str(settings.get("name")))
    if method is None:
        return f"The method {settings.get('name', '(not recorded)')} trained for {duration}."
    return method.story(settings, duration)


def how_to_load(report: Report) -> list[tuple[str, str]]:
    """Return (what, code) pairs that load the result; empty where nothing was made."""
    if report.after is None:
        return []
    files = 'AutoModelForCausalLM.from_pretrained("model")\ntokenizer = AutoTokenizer.from_pretrained("model")'
    pairs = [("From this folder", f"from transformers import AutoModelForCausalLM, AutoTokenizer\n\nmodel = {files}")]
    name, version = report.registry.get("model_name"), report.registry.get("version")
    if name and version:
        at = f"models:/{name}@sanitised" if report.registry.get("alias") else f"models:/{name}/{version}"
        uri = str(report.registry.get("tracking_uri"))
        code = f"import mlflow\n\nmlflow.set_tracking_uri({uri!r})\npipe = mlflow.transformers.load_model({at!r})"
        pairs.append(("From the registry", code))
    return pairs
