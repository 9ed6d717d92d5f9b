"""Builds a checked configuration from values by dotted name, and says in a sentence each what is wrong with them.

Each sentence names the field, the value found and what was expected.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from beear.config.fields import FieldSpec, leaves, suggestion
from beear.errors import UserError

C = TypeVar("C", bound=BaseModel)

MAX_SHOWN = 60


def build(config_class: type[C], values: Mapping[str, Any], places: Mapping[str, str], found: Sequence[str] = ()) -> C:
    """Return the configuration that ``values`` make; fields that they do not name take their defaults.

    Args:
        config_class: the configuration's class.
        values: by dotted field name; unknown names are errors.
        places: by dotted name, where the value was found, as the start of a sentence (``run.yaml, line 3: ``). A name
            without an entry adds nothing to the sentence.
        found: what is known to be wrong already.

    Raises:
        UserError: unknown fields or wrong values, a sentence for each.
    """
    known = leaves(config_class)
    values = {name: _as_meant(value, known.get(name)) for name, value in values.items()}
    problems = [*found, *unknown_fields({name: places.get(name, "") for name in values}, known)]
    problems += _misread(values, places, known)
    usable = {name: value for name, value in values.items() if name in known}
    try:
        config = config_class.model_validate(nest(usable))
    except ValidationError as error:
        raise_all([*problems, *_invalid(error, places, known)])
        raise
    raise_all(problems)
    return config


def flatten(mapping: Mapping[str, Any], leaves: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested sections into dotted keys. A mapping that is the value of a field in ``leaves`` is not taken apart.

    An empty section (``data:`` with nothing below it) gives no keys.
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


def shown(value: object) -> str:
    """Return a value as error messages show it: text in quotes, and long values cut."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 4] + '..."'


def unknown_fields(names: Mapping[str, str], known: Mapping[str, FieldSpec]) -> Iterator[str]:
    """Yield a sentence for every name that is not a field. ``names`` maps each name to the place where it was found."""
    for name, where in names.items():
        if name in known:
            continue
        inside = [field for field in known if field.startswith(f"{name}.")]
        parent = name.rpartition(".")[0]
        if inside:
            yield f"{where}{name} is a section; expected one of its fields, such as {inside[0]}"
        elif parent in known:
            yield f"{where}{name} is unknown: {parent} is a field and has nothing below it"
        else:
            yield f"{where}unknown field {name}{suggestion(name, known) or '; --help lists every field'}"


def raise_all(problems: Iterable[str]) -> None:
    """Raise what is wrong, each problem once; do nothing if nothing is.

    Raises:
        UserError: there is a problem.
    """
    if different := tuple(dict.fromkeys(problems)):
        raise UserError(*different)


def _as_meant(value: Any, spec: FieldSpec | None) -> Any:
    """Return what the user means by ``value``: None for ``auto``, and the words ``on`` and ``off`` for true and false.

    Help and documentation show an unset auto field as ``auto``, so users write it. YAML reads a bare ``on`` or ``off`` as true or
    false; a field that offers those two words means the words.
    """
    if spec and isinstance(value, bool) and {"on", "off"} <= set(spec.choices):
        return "on" if value else "off"
    return None if spec and spec.auto and value == "auto" else value


def _misread(values: Mapping[str, Any], places: Mapping[str, str], known: Mapping[str, FieldSpec]) -> Iterator[str]:
    """Yield a sentence for every true or false in place of a number. pydantic would accept it as 1 or 0."""
    for name, value in values.items():
        spec = known.get(name)
        if spec and isinstance(value, bool) and bool not in spec.types and str not in spec.types:
            yield f"{places.get(name, '')}{name} is {shown(value)}; expected {spec.expected}"


def _invalid(error: ValidationError, places: Mapping[str, str], known: Mapping[str, FieldSpec]) -> Iterator[str]:
    """Yield a sentence for every error that pydantic found."""
    for item in error.errors(include_url=False):
        name = _field(item["loc"], known)
        where = places.get(name, "")
        if item["type"] in ("value_error", "assertion_error"):
            words = str(item.get("ctx", {}).get("error", item["msg"])).rstrip(".")
            # A validator of a whole section already names its fields.
            yield where + (f"{name}: {words}" if name in known and name not in words else words)
        elif name in known:
            quoted = known[name].types == (str,) and isinstance(item["input"], int | float)
            hint = f' (write it in quotes: "{shown(item["input"])}")' if quoted else ""
            expected = known[name].expected
            if item["type"] == "finite_number":
                expected = expected.replace("a number", "a finite number")
            yield f"{where}{name} is {shown(item['input'])}; expected {expected}{hint}"
        else:
            yield f"{where}{name} is {shown(item['input'])}; {item['msg'][0].lower()}{item['msg'][1:]}"


def _field(location: tuple[int | str, ...], known: Mapping[str, FieldSpec]) -> str:
    """Return the dotted field of a pydantic location. The location may go on with list positions or union members."""
    parts = [str(part) for part in location]
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in known:
            return ".".join(parts[:end])
    return ".".join(parts)
