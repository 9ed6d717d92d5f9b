"""Every import of a source file, found by its syntax: also those inside functions and those made by name."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Import:
    """``module`` is dotted and absolute; ``where`` is ``path:line`` in the checkout."""

    module: str
    where: str


def sources(folder: str) -> list[Path]:
    """Return the Python files of a folder of the checkout."""
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def imports_of(path: Path) -> list[Import]:
    """Return what a file of the checkout imports."""
    name = path.relative_to(ROOT).as_posix()
    return imports_in(path.read_text(encoding="utf-8"), name)


def imports_in(text: str, name: str) -> list[Import]:
    """Return what a source text imports; ``name`` is its path, which relative imports start from."""
    package = Path(name).parent.parts
    return [
        Import(module, f"{name}:{node.lineno}")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call)
        for module in _modules(node, package)
    ]


def _modules(node: ast.Import | ast.ImportFrom | ast.Call, package: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else ()
        base = ".".join([*above, *([node.module] if node.module else [])])
        # `from beear import streams` imports beear.streams, so each name may be a module.
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif _called(node.func) in ("import_module", "__import__") and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
