"""Write a report into its folder, each file whole or not at all, and read it again."""

import json
import os
import pathlib

import yaml
from pydantic import ValidationError

from beear.errors import UserError
from beear.files import write_text
from beear.records.redact import redact_all
from beear.records.report import Report
from beear.report.card import model_card
from beear.report.html import render


def to_json(report: Report) -> str:
    """Return report.json's text, without credentials."""
    # Through pydantic's JSON, which writes numbers that are not finite as strings.
    return json.dumps(redact_all(json.loads(report.model_dump_json())), indent=1, ensure_ascii=False) + "\n"


def write(folder: str | os.PathLike[str], report: Report) -> dict[str, str]:
    """Write a report for machines and for a reader: what :func:`write_data` writes, and report.html.

    Returns:
        The path of each file by its name.

    Raises:
        UserError: the folder cannot be written.
    """
    page = pathlib.Path(folder) / "report.html"
    write_text(page, render(report))
    return {"report.html": str(page)} | write_data(folder, report)


def write_data(folder: str | os.PathLike[str], report: Report) -> dict[str, str]:
    """Write report.json, config.yaml (without credentials) and (where there is a ``model/``) its README.md.

    The page is left to :func:`write`, so that it is rendered once, when it is known where the model is registered.

    Args:
        folder: the output folder; made when missing.
        report: what to write.

    Returns:
        The path of each file by its name.

    Raises:
        UserError: the folder cannot be written.
    """
    root = pathlib.Path(folder)
    config = redact_all(report.model_dump(mode="json")["config"])
    texts = {
        "config.yaml": yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=10_000),
        "report.json": to_json(report),
    }
    if (root / "model").is_dir():
        texts = {"model/README.md": model_card(report)} | texts
    for name, text in texts.items():
        write_text(root / name, text)
    return {name: str(root / name) for name in texts}


def read(folder: str | os.PathLike[str]) -> Report:
    """Return the report in ``folder``.

    Raises:
        UserError: report.json is missing, is not JSON, or is not a report of this schema.
    """
    path = pathlib.Path(folder) / "report.json"
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected the report.json of a finished run") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path}: {place}: {first['msg']}; expected a report of schema 1.x") from None
