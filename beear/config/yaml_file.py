"""Reads and writes a configuration as YAML. Reading also finds each key's line, so that errors can name it."""

import textwrap
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from beear.config.build import build, flatten
from beear.config.fields import FieldSpec, leaves
from beear.errors import UserError

C = TypeVar("C", bound=BaseModel)

# An alias may contain itself, which would make an endless walk. No configuration nests deeper than this.
DEEPEST = 8


def load_yaml(path: str | Path, config_class: type[C]) -> C:
    """Return the configuration that a YAML file holds.

    Raises:
        UserError: the file is no readable YAML mapping, or a field is unknown or has a wrong value.
    """
    values, places = read_values(str(path), leaves(config_class))
    return build(config_class, values, places)


def to_yaml(config: BaseModel, comments: bool = False) -> str:
    """Return the configuration as YAML that :func:`load_yaml` reads back equal.

    Args:
        config: any configuration.
        comments: write each field's description above it.
    """
    values = config.model_dump(mode="json")
    return "\n".join(_commented(values, leaves(type(config)))) + "\n" if comments else _yaml(values)


def read_values(path: str, known: Mapping[str, FieldSpec]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a YAML file's values by dotted name, and where each was found (``run.yaml, line 3: ``).

    Raises:
        UserError: the file cannot be read as a YAML mapping.
    """
    mapping, lines = read_mapping(path)
    values = flatten(mapping, known)
    return values, {name: f"{path}, line {lines[name]}: " if name in lines else f"{path}: " for name in values}


def read_mapping(path: str | Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the file's mapping and the line number of each dotted key. An empty file gives an empty mapping.

    Raises:
        UserError: the file is missing, unreadable, not UTF-8, not YAML or no mapping, or gives a key twice.
    """
    value, node = _parse(path, _text(path))
    if node is None or value is None:
        return {}, {}
    if not isinstance(value, dict):
        found = "a list" if isinstance(value, list) else f'"{str(value)[:40]}"'
        raise UserError(f"{path}, line {node.start_mark.line + 1}: found {found}; expected a mapping of sections")
    return {str(key): inner for key, inner in value.items()}, _lines(node)


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice. PyYAML would silently keep the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f'key "{key.value}" given twice (first on line {seen[key.value]})'
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _text(path: str | Path) -> str:
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a YAML file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; expected a YAML file") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = raw[: error.start].count(b"\n") + 1, raw[error.start]
        raise UserError(f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8; expected a UTF-8 file") from None


def _parse(path: str | Path, text: str) -> tuple[Any, yaml.Node | None]:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return (None if node is None else loader.construct_document(node)), node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: {error.problem or error.context}; expected YAML") from None
    except yaml.reader.ReaderError as error:
        number = text[: error.position].count("\n") + 1
        raise UserError(f"{path}, line {number}: {error.reason}; expected YAML") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; expected a mapping of sections") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}; expected YAML") from None


def _lines(node: yaml.Node, prefix: str = "") -> dict[str, int]:
    lines: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode) and prefix.count(".") < DEEPEST:
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            lines[name] = key.start_mark.line + 1
            lines |= _lines(value, f"{name}.")
    return lines


def _commented(values: dict[str, Any], known: dict[str, FieldSpec], prefix: str = "") -> list[str]:
    lines: list[str] = []
    pad = "  " * prefix.count(".")
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in known:
            lines += [f"{pad}# {known[name].description}", textwrap.indent(_yaml({key: value}).rstrip("\n"), pad)]
        else:
            lines += [f"{pad}{key}:", *_commented(value, known, f"{name}.")]
    return lines


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10_000)
