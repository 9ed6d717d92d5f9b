"""What is wrong with a configuration, in one sentence that names the field, the value found and what was expected."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from beear.config.fields import FieldSpec, suggestion
from beear.errors import UserError

MAX_SHOWN = 60


def shown(value: object) -> str:
    """Return a value as an error names it: text quoted, long ones cut."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 4] + '..."'


def unknown(names: Mapping[str, str], known: Mapping[str, FieldSpec]) -> Iterator[str]:
    """Yield a sentence for every name that is no field; ``names`` maps it to where it was found."""
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


def misread(values: Mapping[str, Any], places: Mapping[str, str], known: Mapping[str, FieldSpec]) -> Iterator[str]:
    """Yield a sentence for every true/false where a number belongs, which pydantic would read as 1 or 0."""
    for name, value in values.items():
        spec = known.get(name)
        if spec and isinstance(value, bool) and bool not in spec.types and str not in spec.types:
            yield f"{places.get(name, '')}{name} is {shown(value)}; expected {spec.expected}"


def invalid(error: ValidationError, places: Mapping[str, str], known: Mapping[str, FieldSpec]) -> Iterator[str]:
    """Yield a sentence for every error pydantic found."""
    for item in error.errors(include_url=False):
        name = _field(item["loc"], known)
        where = places.get(name, "")
        if item["type"] in ("value_error", "assertion_error"):
            words = str(item.get("ctx", {}).get("error", item["msg"])).rstrip(".")
            # A check of a whole section names its fields itself.
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


def raise_first(problems: list[str]) -> None:
    """Raise the first problem, with the number of the others.

    Raises:
        UserError: where there is any.
    """
    if problems:
        more = len(problems) - 1
        rest = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
        raise UserError(problems[0] + rest)


def _field(location: tuple[int | str, ...], known: Mapping[str, FieldSpec]) -> str:
    """Return the dotted field of a pydantic location, which may end in list positions or union members."""
    parts = [str(part) for part in location]
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in known:
            return ".".join(parts[:end])
    return ".".join(parts)
