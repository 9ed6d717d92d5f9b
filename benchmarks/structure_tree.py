"""A checkout's Python files by their syntax alone: modules, who imports whom, functions, chains of names."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One file; ``name`` is its path in the checkout, ``module`` its dotted name."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The file's syntax."""
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of it."""
        return list(ast.walk(self.tree))

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return len(self.text.splitlines())

    @property
    def module(self) -> str:
        """The name it is imported by."""
        return self.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def functions(self) -> list[Function]:
        """Every function, methods and inner ones too."""
        return [node for node in self.nodes if isinstance(node, Function)]

    @cached_property
    def docstrings(self) -> set[ast.AST]:
        """The constants that are docstrings."""
        return {node.body[0].value for node in self.nodes if _documented(node)}

    @cached_property
    def literals(self) -> set[str]:
        """Every string that is no docstring."""
        texts = (node for node in self.nodes if isinstance(node, ast.Constant) and node not in self.docstrings)
        return {node.value for node in texts if isinstance(node.value, str)}


def _documented(node: ast.AST) -> bool:
    return isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node, clean=False) is not None


def body_lines(function: Function) -> int:
    """Return the lines from a function's first statement, its docstring apart, to its end; 0 where it has none."""
    body = function.body[1:] if _documented(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def chain(node: ast.AST) -> list[str]:
    """Return ``["a", "b", "c"]`` for ``a.b.c``, and an empty list for what is no chain of names."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [*before, node.attr] if (before := chain(node.value)) else []
    return []


def words_of(annotation: ast.AST | None) -> set[str]:
    """Return the names in an annotation, also those that are written as text."""
    if annotation is None:
        return set()
    return {word for word in re.findall(r"\w+", ast.unparse(annotation)) if not word.isdigit()}


@dataclass(frozen=True)
class Link:
    """``importer`` has ``name`` (its own word for it) from ``module``; ``what`` is None where it is the module itself."""

    importer: str
    module: str
    what: str | None
    name: str


@dataclass
class Tree:
    """The files of some folders of a checkout, in the order of their names."""

    sources: list[Source] = field(default_factory=list)

    @classmethod
    def read(cls, root: Path, folders: tuple[str, ...]) -> "Tree":
        """Read a checkout."""
        paths = [path for folder in folders for path in sorted((root / folder).rglob("*.py")) if "__pycache__" not in path.parts]
        return cls([Source(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")) for path in paths])

    @cached_property
    def modules(self) -> dict[str, Source]:
        """Every file by its module's name."""
        return {source.module: source for source in self.sources}

    @cached_property
    def links(self) -> list[Link]:
        """Every import of one file by another: at the top, in functions, under TYPE_CHECKING and by name alike."""
        return [link for source in self.sources for link in self._links(source) if link.module != source.module]

    def _links(self, source: Source) -> Iterator[Link]:
        for node in source.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name in self.modules:
                        yield Link(source.module, alias.name, None, alias.asname or alias.name.partition(".")[0])
            elif isinstance(node, ast.ImportFrom):
                base = _base(source, node)
                for alias in node.names:
                    name = alias.asname or alias.name
                    if f"{base}.{alias.name}" in self.modules:
                        yield Link(source.module, f"{base}.{alias.name}", None, name)
                    elif base in self.modules:
                        yield Link(source.module, base, alias.name, name)
            elif isinstance(node, ast.Call) and chain(node.func)[-1:] in (["import_module"], ["__import__"]) and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and first.value in self.modules:
                    yield Link(source.module, str(first.value), None, "")

    def importers(self, module: str) -> set[str]:
        """Return the modules that import one."""
        return {link.importer for link in self.links if link.module == module}

    def reached_from(self, module: str) -> set[str]:
        """Return a module and all that it imports, and they in turn."""
        return _reach({module}, self._edges)

    def cycles(self) -> list[list[str]]:
        """Return the groups of modules that reach each other by imports."""
        reach = {module: _reach(self._edges.get(module, set()), self._edges) for module in self.modules}
        tied = [module for module in self.modules if module in reach[module]]
        groups = {tuple(sorted(b for b in tied if b in reach[a] and a in reach[b])) for a in tied}
        return [list(group) for group in sorted(groups)]

    @cached_property
    def _edges(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for link in self.links:
            found.setdefault(link.importer, set()).add(link.module)
        return found

    def references(self, source: Source, function: str) -> int:
        """Return how often the tree names a function of a file's top level, its definition and imports apart."""
        count = _named(source, [function])
        for link in self.links:
            if link.module == source.module:
                name = [link.name, function] if link.what is None else [link.name] if link.what == function else []
                count += _named(self.modules[link.importer], name) if name else 0
        return count


def _base(source: Source, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = source.name.split("/")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def _reach(start: set[str], edges: dict[str, set[str]]) -> set[str]:
    seen, due = set(start), list(start)
    while due:
        new = edges.get(due.pop(), set()) - seen
        seen |= new
        due += new
    return seen


def _named(source: Source, name: list[str]) -> int:
    """Count the chains that are exactly ``name``, or go on from it."""
    wanted = ast.Name if len(name) == 1 else ast.Attribute
    return sum(isinstance(node, wanted) and chain(node) == name for node in source.nodes)
