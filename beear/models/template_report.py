"""Points out what is unusual in a chat template, which is code that comes with the weights and that sanitising leaves alone.

Nothing here says that a template is safe. Each finding is a sentence; differences from a trusted reference are shown line by
line.
"""

import difflib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateSyntaxError

from beear.models import digests
from beear.models.facts import ModelFacts
from beear.models.hub import local_folder
from beear.models.inspect import tokenizer_folder
from beear.models.template_flow import FIELDS, Flow
from beear.models.tokenizer_files import chat_templates, tokenizer_files

MANY_WORDS = 12
MANY_NODES = 20_000
USUAL_FILTERS = {
    "trim", "tojson", "length", "first", "last", "list", "string", "join", "default", "d", "items", "int", "upper",
    "lower", "capitalize", "indent", "selectattr", "rejectattr", "map", "safe", "dictsort", "unique", "count",
}  # fmt: skip
USUAL_CALLS = {"raise_exception", "strftime_now", "namespace", "range", "dict"}
USUAL_METHODS = {
    "strip", "lstrip", "rstrip", "split", "rsplit", "startswith", "endswith", "items", "get", "keys", "values",
    "append", "replace", "upper", "lower", "title", "join",
}  # fmt: skip


def template_report(facts: ModelFacts, reference: str | None = None, given: str | None = None) -> dict[str, Any]:
    """Return the template's text, digests and findings, compared with a trusted directory where one is given.

    ``given`` is the template that the user has the run use instead of the checkpoint's own.

    Keys: ``text``, ``digest``, ``tokenizer_digest``, ``findings`` (sentences), ``reference`` (None, or ``{path,
    same_template, same_tokenizer, diff}`` with a unified diff of the default templates).

    Raises:
        UserError: the reference has no readable tokenizer.
    """
    templates = chat_templates(tokenizer_folder(facts.path, facts.base))
    found = [
        f'template "{name}": {sentence}' if len(templates) > 1 else sentence
        for name, text in templates.items()
        for sentence in findings(text)
    ]
    if not templates:
        found.append("The checkpoint has no chat template.")
    if given is not None:
        found.append(f"The run uses the template {given}, not the checkpoint's own.")
    found += _against_base(templates, facts, "neither" if given else "the adapter's")
    return {
        "text": facts.chat_template,
        "digest": facts.digests["template"],
        "tokenizer_digest": facts.digests["tokenizer"],
        "findings": found,
        "reference": compare(facts, reference) if reference else None,
    }


def _against_base(templates: dict[str, str], facts: ModelFacts, used: str) -> list[str]:
    """Say that an adapter brings another template than its base has, or none, and which of the two is ``used``."""
    if facts.base is None or tokenizer_folder(facts.path, facts.base) == Path(facts.base):
        return []
    if digests.template_digest(chat_templates(Path(facts.base))) == digests.template_digest(templates):
        return []
    if not templates:
        return [f"The adapter's tokenizer has no chat template, and its base's ({facts.base}) has one; {used} is used."]
    return [f"The adapter's chat template differs from its base's ({facts.base}); {used} is used."]


def compare(facts: ModelFacts, reference: str) -> dict[str, Any]:
    """Return whether template and tokenizer equal those of a trusted directory, and how the templates differ.

    Raises:
        UserError: the reference has no readable tokenizer.
    """
    folder, _ = local_folder(reference, "model.reference")
    files = [(str(path.relative_to(folder)), path) for path in tokenizer_files(folder)]
    trusted = chat_templates(folder)
    diff = difflib.unified_diff(
        (trusted.get("default") or "").splitlines(),
        (facts.chat_template or "").splitlines(),
        "reference",
        "checkpoint",
        lineterm="",
    )
    return {
        "path": str(folder),
        "same_template": digests.template_digest(trusted) == facts.digests["template"],
        "same_tokenizer": digests.manifest_digest(files) == facts.digests["tokenizer"],
        "diff": "\n".join(diff),
    }


def findings(text: str) -> list[str]:
    """Return sentences on what in a template is worth a person's eye; empty for a usual one."""
    try:
        # Loop controls are what the library's own renderer adds; its generation tag marks labels and writes nothing.
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_without_generation(text))
        if sum(1 for _ in islice(tree.find_all(nodes.Node), MANY_NODES)) == MANY_NODES:
            return [f"The template has over {MANY_NODES:,} parts, too many to be looked at."]
        return [*_conditions(tree), *_long_text(tree), *_unusual(tree)]
    except TemplateSyntaxError as error:
        return [f"The template is not valid Jinja (line {error.lineno}: {error.message})."]
    except RecursionError:
        return ["The template is nested too deeply to be looked at."]


def _without_generation(text: str) -> str:
    for tag in ("generation", "endgeneration"):
        for left in ("{%", "{%-"):
            for right in ("%}", "-%}"):
                text = text.replace(f"{left} {tag} {right}", "")
    return text


def _conditions(tree: nodes.Template) -> Iterator[str]:
    flow = Flow.of(tree)
    if not flow.complete:
        yield "The template passes text on through too many names to be followed."
    seen: set[str] = set()
    found: Iterator[Any] = tree.find_all((nodes.If, nodes.CondExpr))
    for node in found:
        test: nodes.Expr = node.test
        for part in [test, *test.find_all((nodes.Compare, nodes.Call))]:
            if not isinstance(part, nodes.Compare | nodes.Call):
                continue
            literals = ", ".join(_literals(part))
            if literals and flow.reads_text(part):
                sentence = f"Line {node.lineno}: what the template writes depends on a message's text against {literals}."
            elif _calls(part, "strftime_now"):
                sentence = f"Line {node.lineno}: what the template writes depends on the date."
            else:
                continue
            if sentence not in seen:
                seen.add(sentence)
                yield sentence


def _literals(node: nodes.Node) -> list[str]:
    """Return the constants that a text is compared with: words, and numbers other than 0 and 1, which only ask if it is empty."""
    values = [part.value for part in [node, *node.find_all(nodes.Const)] if isinstance(part, nodes.Const)]
    words = [f'"{value[:80]}"' for value in values if isinstance(value, str) and value.strip() and value not in FIELDS]
    return words + [str(value) for value in values if type(value) is int and value not in (0, 1)]


def _calls(node: nodes.Node, name: str) -> bool:
    return any(
        isinstance(call.node, nodes.Name) and call.node.name == name
        for call in [*node.find_all(nodes.Call), node]
        if isinstance(call, nodes.Call)
    )


def _long_text(tree: nodes.Template) -> Iterator[str]:
    found: Iterator[Any] = tree.find_all((nodes.TemplateData, nodes.Const))
    for node in found:
        value = node.data if isinstance(node, nodes.TemplateData) else node.value
        if isinstance(value, str) and len(value.split()) > MANY_WORDS:
            shown = value.strip()[:160]
            yield f'Line {node.lineno}: the template inserts {len(value.split())} words of its own: "{shown}".'


def _unusual(tree: nodes.Template) -> Iterator[str]:
    for item in tree.find_all(nodes.Filter):
        if item.name not in USUAL_FILTERS:
            yield f'Line {item.lineno}: the template uses the filter "{item.name}", which templates seldom need.'
    for access in tree.find_all(nodes.Getattr):
        if access.attr.startswith("_"):
            yield f'Line {access.lineno}: the template reaches for "{access.attr}", an attempt to leave the sandbox.'
    for index in tree.find_all(nodes.Getitem):
        if isinstance(index.arg, nodes.Const) and str(index.arg.value).startswith("__"):
            yield f'Line {index.lineno}: the template reaches for "{index.arg.value}", an attempt to leave the sandbox.'
        elif isinstance(index.arg, nodes.Concat | nodes.Add):
            yield f"Line {index.lineno}: the template puts a field's name together from parts, hiding what it reads."
    for call in tree.find_all(nodes.Call):
        yield from _unusual_call(call, {macro.name for macro in tree.find_all(nodes.Macro)})
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        yield f"Line {node.lineno}: the template asks for another template, which it has no use for."


def _unusual_call(call: nodes.Call, macros: set[str]) -> Iterator[str]:
    target = call.node
    if isinstance(target, nodes.Name) and target.name not in USUAL_CALLS | macros:
        yield f'Line {call.lineno}: the template calls "{target.name}", which templates seldom do.'
    if isinstance(target, nodes.Getattr) and target.attr not in USUAL_METHODS and not target.attr.startswith("_"):
        yield f'Line {call.lineno}: the template calls ".{target.attr}()", which templates seldom do.'
