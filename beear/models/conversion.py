"""conversion.json, which the conversion command leaves beside the safetensors that it made of other weights.

It comes with the checkpoint, so it is a stranger's claim. That its safetensors are the files present is checked; that they were
made of the files it names cannot be.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from beear.errors import UserError
from beear.models.folder import MEGABYTE, inside, listed, read_object
from beear.records.report import Conversion, ConvertedFile

NAME = "conversion.json"

Name = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00-\x1f\x7f]+$", max_length=255)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Note = Annotated[str, StringConstraints(max_length=500)]
Version = Annotated[str, StringConstraints(pattern=r"^[\w.+-]+$", max_length=60)]


class Record(BaseModel):
    """The file's shape, with nothing beside it. ``sources`` and ``written`` are sha256 hex by file name.

    ``notes`` say what was not taken as it was: tensors stored once, values left out.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Annotated[int, Field(ge=1, le=1)]
    converter: Version
    torch: Version
    network: Literal["cut", "open"]
    dequantised_to: Literal["float32", "bfloat16", "float16"] | None
    notes: Annotated[list[Note], Field(max_length=1000)]
    sources: dict[Name, Digest]
    written: dict[Name, Digest]


def read_conversion(folder: Path, present: Mapping[str, str]) -> Conversion | None:
    """Return what conversion.json says, None where there is none; ``present`` is the sha256 of each safetensors file by name.

    Raises:
        UserError: it is too big, of another shape, or its safetensors are not those present.
    """
    path = inside(folder, NAME, str(folder))
    if not path.exists():
        return None
    try:
        record = Record.model_validate(read_object(path, 4 * MEGABYTE))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part)[:80] for part in first["loc"])
        said = f'found "{where}" of another shape ({first["msg"][:80]})'
        raise UserError(f"{path}: {said}, expected the file as the conversion wrote it") from None
    wrong = sorted(name for name in record.written.keys() | present if record.written.get(name) != present.get(name))
    if wrong:
        listed, held = (found.get(wrong[0], "none") for found in (record.written, present))
        raise UserError(
            f"{path}: does not match {wrong[0][:200]} ({len(wrong)} such): it lists the sha256 {listed}, found {held}; "
            f"expected the files as they were converted, or no {NAME}"
        )
    return Conversion(
        folder=str(folder),
        converter=record.converter,
        torch=record.torch,
        dequantised_to=record.dequantised_to,
        notes=record.notes,
        sources=_files(record.sources),
        written=_files(record.written),
    )


def _files(found: Mapping[str, str]) -> list[ConvertedFile]:
    return [ConvertedFile(name=name, sha256=digest) for name, digest in sorted(found.items())]


def conversion_note(found: Conversion) -> str:
    """Return a sentence for the report's notes."""
    names = listed([file.name for file in found.sources], 4)
    how = f", dequantised to {found.dequantised_to}" if found.dequantised_to else ""
    return f"{found.folder}: converted from {names}{how}, says its {NAME}, which lists the safetensors present"
