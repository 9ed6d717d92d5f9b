"""Counts how a checkout is built, by its text alone, so that one rule measures it before and after a change.

    python -m benchmarks.structure [--root DIR] [--json FILE]                        prints the counts, keeps them in FILE
    python -m benchmarks.structure --page docs/architecture.md --before FILE         writes the page's table, FILE beside now

Nothing of the package is imported. A rule that goes by names lists those of the tree before the redesign and those of the
tree after it, so that both commits are counted by the same file; see ``LAYERED``, ``LAYER`` and ``KINDS``. What is counted, over
beear/, pipelines/ and tune_spaces/ unless said:

- *small functions with one caller*: at most 3 lines of body (the docstring apart), and named once in the whole tree beside the
  definition and imports of it. Functions at a file's top level, and private methods, which their own file names. Not those with
  a decorator, nor the methods of a Protocol, nor methods that two classes of the file define.
- *small files with one importer*: at most 60 lines, imported by one other file; packages' own files do not count.
- *import cycles*: groups of files that reach each other by imports of any kind, also in functions and under TYPE_CHECKING.
- *asserts about resolution*: the message says "resolved", or a field of a configuration is compared with None.
- *deep copies*: ``model_copy(deep=True)`` anywhere; ``deepcopy`` of what is named a configuration, in a file that imports from a
  module named config. *Assignments*: to an attribute of a configuration (see ``CONFIGURATIONS``), of a part of one, or of a name
  bound to either in that function, ``setattr`` too. What is built anew and what is replaced whole (``job.config =``) is neither.
- *wrappers*: classes outside the configuration that hold a run's configuration or a method's settings, in a field or from a
  parameter of __init__, as the argument of a generic class, or that hold such a class in turn. A run's stages each hold the one
  before and count too.
- *files that name the layer*: of the files that the main command reaches by imports, those with a field, a parameter or a
  keyword ``layer`` (no Module), a property or an attribute of a name in ``LAYER`` (not of self), or the text ``method.layer``.
  The way back into the report counts too, and so does a layer that is not method.layer, such as entrapment resistance's.
  *Files that carry it*: those, and the ones that name a configuration that has the layer, or a wrapper.
- *files that name a member*: what one more member of a kind is likely to touch, see ``KINDS``: an upper bound, since a member
  that is there may be named for reasons of its own.
"""

import argparse
import ast
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.structure_tree import Function, Source, Tree, body_lines, chain, words_of

FOLDERS = ("beear", "pipelines", "tune_spaces")
PACKAGE, CONFIGURATION = "beear/", "beear/config/"
MAIN_COMMAND = "pipelines.sanitize"
SMALL_FUNCTION, SMALL_FILE = 3, 60
# Names that hold a configuration, and classes that have the layer: what wraps one of these carries it too.
CONFIGURATIONS = ("config", "settings", "asked")
LAYERED = (
    *("MethodConfig", "RunConfig", "TuneConfig"),
    # The redesign's: the settings of the method that has the layer, what a run is resolved to, and who makes the classes above.
    *("BeearSettings", "ResolvedConfig", "run_config", "tune_config"),
)
# The field, and the properties that give it under another name.
LAYER, LAYER_FIELD = ("layer", "perturbed_layer", "watched_layer"), "method.layer"


@dataclass(frozen=True)
class Kind:
    """A member that is there stands for one more: files count that name it.

    ``names``: identifiers of any kind, attributes and keywords too. ``defined``: functions, classes, imported names and modules,
    files. ``literals``: whole texts. ``words``: words within texts. Docstrings and comments count as nothing. ``under`` is where
    it is looked for, ``not_under`` where the name means something else.
    """

    names: tuple[str, ...] = ()
    defined: tuple[str, ...] = ()
    literals: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    under: str = ""
    not_under: str | None = None


KINDS = {
    "method (finetune)": Kind(names=("finetune", "Finetune"), defined=("finetune",), literals=("finetune",)),
    "measure (over_refusal)": Kind(names=("over_refusal",), words=("over_refusal",)),
    "attack (short-prefix)": Kind(literals=("short-prefix",)),
    "target of attacks (code)": Kind(literals=("code",), under="beear/testbed/"),
    # The configuration has a section of that name.
    "command (evaluate)": Kind(
        defined=("evaluate", "measure_job", "evaluate_report"), literals=("evaluate",), not_under=CONFIGURATION
    ),
    # Before the redesign the small models that tests use stood among the tests, which are not counted.
    "family (mixtral)": Kind(literals=("mixtral", "MixtralForCausalLM"), not_under="beear/testing/"),
}
GOALS = {
    "import cycles": "0",
    "asserts about resolution": "0",
    "deep copies of a configuration": "0",
    "assignments to a configuration's fields": "0",
    "files that carry it": "10",
    "files that name one: method (finetune)": "2",
    "files that name one: measure (over_refusal)": "2",
    "files that name one: attack (short-prefix)": "1",
    "files that name one: target of attacks (code)": "1",
    "files that name one: command (evaluate)": "2",
    "files that name one: family (mixtral)": "2",
}
BEGIN, END = "<!-- structure: begin -->", "<!-- structure: end -->"


def measure(root: Path) -> dict[str, Any]:
    """Return ``counts`` by name, and ``lists`` of what was counted, so that a reader can check."""
    tree = Tree.read(root, FOLDERS)
    sizes, bodies = [s.lines for s in tree.sources], [body_lines(f) for s in tree.sources for f in s.functions]
    package = [s for s in tree.sources if s.name.startswith(PACKAGE)]
    asserts = [(s, node) for s in package for node in s.nodes if isinstance(node, ast.Assert)]
    classes = wrappers(tree)
    lists = {
        "small functions with one caller": list(_small_functions(tree)),
        "small files with one importer": [s.name for s in tree.sources if _small_file(tree, s)],
        "import cycles": [" ".join(group) for group in tree.cycles()],
        "asserts about resolution": [f"{s.name}:{node.lineno}" for s, node in asserts if _about_resolution(node)],
        "deep copies of a configuration": [at for s in tree.sources for at in _deep_copies(tree, s)],
        "assignments to a configuration's fields": [at for s in tree.sources for at in _assignments(tree, s)],
        "wrappers of a run's configuration": sorted(f"{module}.{name}" for module, name in classes),
        "files that name the layer": [s.name for s in _reached(tree) if _names_layer(s)],
        "files that carry it": [s.name for s in _reached(tree) if _carries(tree, s, classes)],
    }
    lists |= {f"files that name one: {kind}": [s.name for s in tree.sources if _names(s, rule)] for kind, rule in KINDS.items()}
    counts: dict[str, float] = {
        "files": len(sizes),
        "lines in all": sum(sizes),
        "lines of a file, median": median(sizes),
        "lines of a file, nine in ten": _nine_in_ten(sizes),
        "functions": len(bodies),
        "lines of a function's body, median": median(bodies),
        "lines of a function's body, nine in ten": _nine_in_ten(bodies),
        "asserts in beear/": len(asserts),
        "the name Any": sum(_any(node) for s in tree.sources for node in s.nodes),
    }
    return {"commit": _commit(root), "counts": counts | {name: len(found) for name, found in lists.items()}, "lists": lists}


def _nine_in_ten(values: Sequence[int]) -> int:
    return sorted(values)[math.ceil(0.9 * len(values)) - 1]


def _commit(root: Path) -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _small_functions(tree: Tree) -> Iterator[str]:
    for source in tree.sources:
        for node in source.tree.body:
            if isinstance(node, Function) and _small(node) and tree.references(source, node.name) == 1:
                yield f"{source.name}:{node.lineno} {node.name}"
        classes = [node for node in source.nodes if isinstance(node, ast.ClassDef)]
        methods = [node for kind in classes if not _protocol(kind) for node in kind.body if isinstance(node, Function)]
        names = [node.name for node in methods]
        attributes = [node.attr for node in source.nodes if isinstance(node, ast.Attribute)]
        for node in methods:
            private = node.name.startswith("_") and not node.name.endswith("__") and names.count(node.name) == 1
            if private and _small(node) and attributes.count(node.name) == 1:
                yield f"{source.name}:{node.lineno} {node.name}"


def _small(function: Function) -> bool:
    return body_lines(function) <= SMALL_FUNCTION and not function.decorator_list


def _protocol(kind: ast.ClassDef) -> bool:
    return any("Protocol" in chain(base) for base in kind.bases)


def _small_file(tree: Tree, source: Source) -> bool:
    own = source.name.endswith(("__init__.py", "__main__.py"))
    return not own and source.lines <= SMALL_FILE and len(tree.importers(source.module)) == 1


def _about_resolution(node: ast.Assert) -> bool:
    said = ast.unparse(node.msg) if node.msg else ""
    field = rf"\b({'|'.join(CONFIGURATIONS)}|method|evaluate|parallel)\.[\w.]+ is not None"
    return "resolved" in said or re.search(field, ast.unparse(node.test)) is not None


def _any(node: ast.AST) -> bool:
    return "Any" in (getattr(node, "id", ""), getattr(node, "attr", ""), isinstance(node, ast.alias) and node.name)


def _knows_configuration(tree: Tree, source: Source) -> bool:
    return any(link.importer == source.module and "config" in link.module.split(".") for link in tree.links)


def _deep_copies(tree: Tree, source: Source) -> Iterator[str]:
    for node in source.nodes:
        if isinstance(node, ast.Call):
            name = chain(node.func)[-1:] or [getattr(node.func, "attr", "")]
            deep = name == ["model_copy"] and any(k.arg == "deep" and _true(k.value) for k in node.keywords)
            copied = name == ["deepcopy"] and bool(node.args) and set(chain(node.args[0])) & set(CONFIGURATIONS)
            if deep or (copied and _knows_configuration(tree, source)):
                yield f"{source.name}:{node.lineno}"


def _true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _assignments(tree: Tree, source: Source) -> Iterator[str]:
    if not (_knows_configuration(tree, source) or source.name.startswith(CONFIGURATION)):
        return
    found = set()
    for function in source.functions:
        held = _held(function)
        for node in ast.walk(function):
            for target in _targets(node):
                parts = chain(target)
                if parts and (parts[0] in held or set(parts) & set(CONFIGURATIONS)):
                    found.add(node.lineno)
    yield from (f"{source.name}:{line}" for line in sorted(found))


def _targets(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what a statement sets an attribute of."""
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(part, ast.Attribute):
                    yield part.value
    elif isinstance(node, ast.Call) and chain(node.func) == ["setattr"] and node.args:
        yield node.args[0]


def _held(function: Function) -> set[str]:
    """Return the names in a function that hold a configuration or a part of one."""
    parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    held = {p.arg for p in parameters if any(word.endswith("Config") for word in words_of(p.annotation))} | set(CONFIGURATIONS)
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            pairs = _pairs(node.targets[0], node.value)
        elif isinstance(node, ast.For):
            pairs = [(node.target, node.iter)]
        else:
            continue
        for target, value in pairs:
            values = value.elts if isinstance(value, ast.Tuple | ast.List) else [value]
            if isinstance(target, ast.Name) and any(_holds(each, held) for each in values):
                held.add(target.id)
    return held


def _pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return list(zip(target.elts, value.elts, strict=False))
    return [(target, value)]


def _holds(value: ast.expr, held: set[str]) -> bool:
    """Say whether a value is a configuration, a part of one or a copy; a leaf counts too, which nothing is set on."""
    if isinstance(value, ast.Call):
        parts = chain(value.func)
        return parts[-1:] == ["model_copy"] and bool(set(parts) & held)
    parts = chain(value)
    return bool(parts) and (parts[0] in held or bool(set(parts) & set(CONFIGURATIONS)))


def wrappers(tree: Tree) -> set[tuple[str, str]]:
    """Return the classes (module, name) outside the configuration that hold a run's, or one that does."""
    held = {
        (source.module, kind.name): {word for annotation in _annotations(kind) for word in words_of(annotation)}
        for source in tree.sources
        if not source.name.startswith(CONFIGURATION)
        for kind in source.nodes
        if isinstance(kind, ast.ClassDef)
    }
    found = {(module, name) for module, name in held if _arguments(tree, module, name)}
    while new := {(m, n) for (m, n), words in held.items() if (m, n) not in found and words & _carriers(tree, m, found)}:
        found |= new
    return found


def _carriers(tree: Tree, module: str, classes: set[tuple[str, str]]) -> set[str]:
    """Return what a file calls the configurations that have the layer, and these classes."""
    own = {name for place, name in classes if place == module}
    links = [link for link in tree.links if link.importer == module and link.what]
    return own | {link.name for link in links if link.what in LAYERED or (link.module, link.what) in classes}


def _arguments(tree: Tree, module: str, name: str) -> set[str]:
    """Return what a generic class is written with, such as ``BeearSettings`` for ``MethodParts[BeearSettings]``."""
    users = [tree.modules[link.importer] for link in tree.links if (link.module, link.what) == (module, name)]
    subscripts = (node for source in users for node in source.nodes if isinstance(node, ast.Subscript))
    return {word for node in subscripts if chain(node.value) == [name] for word in words_of(node.slice)} & set(LAYERED)


def _annotations(kind: ast.ClassDef) -> Iterator[ast.AST | None]:
    for node in kind.body:
        if isinstance(node, ast.AnnAssign):
            # What takes a configuration when it is called holds none.
            yield None if "Callable" in words_of(node.annotation) else node.annotation
        elif isinstance(node, Function) and node.name == "__init__":
            yield from (p.annotation for p in node.args.args if "Callable" not in words_of(p.annotation))


def _reached(tree: Tree) -> list[Source]:
    reached = tree.reached_from(MAIN_COMMAND)
    return [source for source in tree.sources if source.module in reached]


def _identifiers(source: Source) -> set[str]:
    fields = ("id", "attr", "arg", "name", "asname")
    found = {getattr(node, name, None) for node in source.nodes for name in fields}
    return {name for name in found if isinstance(name, str)}


def _names_layer(source: Source) -> bool:
    return LAYER_FIELD in source.literals or any(_is_layer(node) for node in source.nodes)


def _is_layer(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in LAYER and chain(node)[:1] != ["self"]
    if isinstance(node, ast.AnnAssign):
        return chain(node.target) == [LAYER[0]] and "Module" not in words_of(node.annotation)
    if isinstance(node, ast.arg):
        return node.arg == LAYER[0] and "Module" not in words_of(node.annotation)
    if isinstance(node, Function):
        return node.name in LAYER and any(chain(decorator) == ["property"] for decorator in node.decorator_list)
    return isinstance(node, ast.keyword) and node.arg == LAYER[0]


def _carries(tree: Tree, source: Source, classes: set[tuple[str, str]]) -> bool:
    return _names_layer(source) or bool(_identifiers(source) & _carriers(tree, source.module, classes))


def _names(source: Source, kind: Kind) -> bool:
    words = {word for text in source.literals for word in re.findall(r"\w+", text)} if kind.words else set()
    own = _identifiers(source) if kind.names else set()
    defined = _defined(source) if kind.defined else set()
    pairs = ((own, kind.names), (defined, kind.defined), (source.literals, kind.literals), (words, kind.words))
    other = kind.not_under is not None and source.name.startswith(kind.not_under)
    return source.name.startswith(kind.under) and not other and any(found & set(wanted) for found, wanted in pairs)


def _defined(source: Source) -> set[str]:
    found = {Path(source.name).stem}
    for node in source.nodes:
        if isinstance(node, Function | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {part for alias in node.names for part in alias.name.split(".")}
    return found


def table(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return the table: each count before, now, and what it is to come to where that is a number."""
    lines = ["| | before | now | goal |", "|---|---|---|---|"]
    for name, value in now["counts"].items():
        old = before["counts"].get(name)
        lines.append(f"| {name} | {'–' if old is None else f'{old:g}'} | {value:g} | {GOALS.get(name, '')} |")
    return "\n".join(lines)


def renewed(page: str, text: str) -> str:
    """Return a page with ``text`` between its two marks.

    Raises:
        ValueError: the marks are not there.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected {BEGIN} and {END} in the page")
    return f"{head}{BEGIN}\n{text}\n{END}{tail}"


def main(arguments: Sequence[str]) -> int:
    """Count, print, and write what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structure", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="the checkout")
    parser.add_argument("--json", type=Path, help="keep the counts in this file")
    parser.add_argument("--page", type=Path, help="write the table into this page")
    parser.add_argument("--before", type=Path, help="earlier counts, for the table")
    asked = parser.parse_args(arguments)
    if asked.page and not asked.before:
        parser.error("--page: expected --before too")
    found = measure(asked.root)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if asked.page:
        text = table(json.loads(asked.before.read_text(encoding="utf-8")), found)
        asked.page.write_text(renewed(asked.page.read_text(encoding="utf-8"), text), encoding="utf-8")
    print("\n".join(f"{value:>8g}  {name}" for name, value in found["counts"].items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
