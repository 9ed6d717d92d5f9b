"""Reading a YAML mapping: UTF-8, no key twice, every key with the line it stands on."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from beear.errors import UserError

# An alias may hold itself; no configuration nests deeper than this.
DEEPEST = 8


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where PyYAML would keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f'key "{key.value}" given twice (first on line {seen[key.value]})'
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def read_mapping(path: str | Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the file's mapping and the line of each dotted key; an empty file is an empty mapping.

    Raises:
        UserError: missing, unreadable, not UTF-8, not YAML, a key given twice, or not a mapping.
    """
    value, node = _parse(path, _text(path))
    if node is None or value is None:
        return {}, {}
    if not isinstance(value, dict):
        found = "a list" if isinstance(value, list) else f'"{str(value)[:40]}"'
        raise UserError(f"{path}, line {node.start_mark.line + 1}: found {found}; expected a mapping of sections")
    return {str(key): inner for key, inner in value.items()}, _lines(node)


def flatten(mapping: Mapping[str, Any], leaves: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested sections into dotted keys; the values of ``leaves`` stay whole.

    A section left empty (``data:`` with nothing below) holds no keys.
    """
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        section = name not in leaves and any(leaf.startswith(f"{name}.") for leaf in leaves)
        if section and isinstance(value, Mapping):
            flat |= flatten(value, leaves, f"{name}.")
        elif not (section and value is None):
            flat[name] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into nested sections."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return nested


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
