"""Lists the fields of a configuration class by dotted name. Help, errors and documentation are made from this list."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from beear.errors import nearest

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_BOUNDS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))


@dataclass(frozen=True)
class FieldSpec:
    """One field of the configuration.

    Args:
        name: the dotted name.
        section: the dotted name of the section that holds it.
        types: the members of the annotation, without None.
        default: None where it is unset or filled in later.
        description: one line for the help.
        expected: what the field takes, in words: ``a whole number, at least 1``.
        optional: the field takes ``none``.
        auto: while unset, a rule fills it in by the model. Its description contains "(auto".
    """

    name: str
    section: str
    types: tuple[Any, ...]
    default: Any
    description: str
    expected: str
    optional: bool
    auto: bool

    @property
    def shown_default(self) -> str:
        """The default as a user would type it."""
        if self.default is None:
            return "auto" if self.auto else "unset"
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)

    @property
    def simple(self) -> bool:
        """Whether a value is one word on the command line. Lists and mappings are written as YAML."""
        return all(kind in _KINDS or get_origin(kind) is Literal for kind in self.types)

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of the field's Literal types."""
        return tuple(value for kind in self.types if get_origin(kind) is Literal for value in get_args(kind))

    @property
    def switch(self) -> bool:
        """Whether the option may be given without a value, which then is true."""
        return self.types == (bool,)


def sections(config_class: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel], str]]:
    """Yield (dotted name, class, description) of every section; nested sections follow their parent."""
    for name, info in config_class.model_fields.items():
        if inner := _section(info):
            yield prefix + name, inner, info.description or ""
            yield from sections(inner, f"{prefix}{name}.")


def groups(config_class: type[BaseModel], known: dict[str, FieldSpec]) -> list[tuple[str, str, list[FieldSpec]]]:
    """Return (section, description, fields) for each section that has fields; last those of no section, named ""."""
    titles = [*((name, words) for name, _, words in sections(config_class)), ("", "the run as a whole")]
    found = [(name, words, [spec for spec in known.values() if spec.section == name]) for name, words in titles]
    return [group for group in found if group[2]]


def leaves(config_class: type[BaseModel], prefix: str = "") -> dict[str, FieldSpec]:
    """Return every field by its dotted name, in the order of the classes. Sections are not fields."""
    found: dict[str, FieldSpec] = {}
    for name, info in config_class.model_fields.items():
        if inner := _section(info):
            found |= leaves(inner, f"{prefix}{name}.")
        else:
            found[prefix + name] = _leaf(prefix, name, info)
    return found


def suggestion(name: str, known: Mapping[str, FieldSpec]) -> str:
    """Return `` (did you mean "method.layer"?)`` for the closest field or section, or an empty string if none is close."""
    tail = name.rpartition(".")[2].replace("-", "_")
    exact = [field for field in known if field.rpartition(".")[2] == tail]
    if len(exact) == 1:
        return f' (did you mean "{exact[0]}"?)'
    parents = {field.rpartition(".")[0] for field in known if "." in field}
    return nearest(name.replace("-", "_"), exact or [*known, *sorted(parents)])


def _section(info: FieldInfo) -> type[BaseModel] | None:
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _leaf(prefix: str, name: str, info: FieldInfo) -> FieldSpec:
    members, bounds = _members(info.annotation)
    types = tuple(kind for kind in members if kind is not NoneType)
    default = info.get_default(call_default_factory=True)
    description = info.description or ""
    optional, auto = NoneType in members, default is None and "(auto" in description
    words = ", ".join([" or ".join(map(_kind, types)), *_bounds([*info.metadata, *bounds])])
    if optional:
        words += ", or auto" if auto else ", or none"
    return FieldSpec(prefix + name, prefix.rstrip("."), types, default, description, words, optional, auto)


def _members(annotation: Any) -> tuple[tuple[Any, ...], list[Any]]:
    """Split an annotation such as ``Annotated[int, ge] | None`` into its types and its constraints."""
    metadata = list(getattr(annotation, "__metadata__", ()))
    if metadata:
        types, inner = _members(annotation.__origin__)
        return types, [*inner, *metadata]
    whole = isinstance(annotation, type) or get_origin(annotation) in (Literal, list, tuple, dict, set)
    if whole or not get_args(annotation):
        return (annotation,), []
    parts = [_members(part) for part in get_args(annotation)]
    return tuple(kind for types, _ in parts for kind in types), [c for _, constraints in parts for c in constraints]


def either(values: Iterable[object]) -> str:
    """Return values as a sentence lists a choice: ``a, b or c``."""
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last


def _kind(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return either(get_args(kind))
    if origin in (list, tuple, set):
        return "a list"
    return "a mapping" if origin is dict else _KINDS.get(kind, str(kind))


def _bounds(metadata: list[Any]) -> list[str]:
    """Return the constraints in words."""
    # pydantic keeps them as annotated_types, sometimes inside a nested FieldInfo.
    flat = [c for item in metadata for c in (item.metadata if isinstance(item, FieldInfo) else [item])]
    return [
        f"{words} {getattr(constraint, key):g}"
        for key, words in _BOUNDS
        for constraint in flat
        if getattr(constraint, key, None) is not None
    ]
