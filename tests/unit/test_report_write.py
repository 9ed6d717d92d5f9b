"""Files: whole or not at all, readable again, published as a schema."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beear.errors import UserError
from beear.records.redact import redact, redact_all
from beear.report.__main__ import main
from beear.report.jsonschema import text as schema_text
from beear.report.write import read, to_json, write
from tests.checkout import ROOT
from tests.report_sample import sample_report


def test_a_report_comes_back_as_it_was(tmp_path: Path) -> None:
    report = sample_report()
    report.before.rows_nll = [math.nan, math.inf, -math.inf, 1.5]
    paths = write(tmp_path / "out", report)
    assert sorted(paths) == ["config.yaml", "report.html", "report.json"]
    again = read(tmp_path / "out")
    assert math.isnan(again.before.rows_nll[0]) and again.before.rows_nll[1:] == [math.inf, -math.inf, 1.5]
    again.before.rows_nll = report.before.rows_nll = []
    assert again == report
    json.loads((tmp_path / "out/report.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_the_published_schema_is_current() -> None:
    published = (ROOT / "docs/report.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), "run: python -m beear.report.jsonschema > docs/report.schema.json"


def test_a_written_report_satisfies_the_published_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "docs/report.schema.json").read_text(encoding="utf-8"))
    for report in (sample_report(), sample_report(kind="evaluate"), sample_report("refused")):
        jsonschema.validate(json.loads(to_json(report)), schema)
    broken = json.loads(to_json(sample_report()))
    del broken["gate"]["sentence"]
    with pytest.raises(jsonschema.ValidationError, match="sentence"):
        jsonschema.validate(broken, schema)


def test_an_output_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "out", sample_report())


def test_the_card_is_written_where_the_model_is(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write(tmp_path, sample_report("refused"))
    assert "DO NOT USE" in (tmp_path / "model/README.md").read_text()


@pytest.mark.parametrize(
    ("content", "match"),
    [(None, "cannot be read"), ("{", "the file: Invalid JSON"), ('{"kind": "x"}', "kind: "), ("[]", "the file: ")],
)
def test_reading_what_is_no_report(tmp_path: Path, content: str | None, match: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(UserError, match=match):
        read(tmp_path)


def test_rendering_again_from_report_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, sample_report())
    page = (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").unlink()
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text() == page and str(tmp_path) in capsys.readouterr().out
    assert main([str(tmp_path / "none")]) == 2 and main([]) == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://bob:pw@host:5000/x", "http://host:5000/x"),
        ("postgresql+psycopg2://u:p%40@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("see https://tok@h/a and http://u:p@i/b.", "see https://h/a and http://i/b."),
        ("http://h/x?api_key=abc&page=2", "http://h/x?api_key=***&page=2"),
        ("mail bob@host or sqlite:////a/b.db", "mail bob@host or sqlite:////a/b.db"),
    ],
)
def test_redact(given: str, expected: str) -> None:
    assert redact(given) == expected


@given(st.text(st.characters(blacklist_characters="/@?# \t\r\n\x0b\x0c", blacklist_categories=("Cs", "Z", "Cc")), min_size=1))
def test_no_userinfo_survives(secret: str) -> None:
    assert redact_all({"a": [f"http://u:{secret}@host/"]}) == {"a": ["http://host/"]}


def test_report_json_holds_no_credentials(tmp_path: Path) -> None:
    write(tmp_path, sample_report(config={"tracking": {"uri": "http://u:hunter2@h"}}))
    for path in tmp_path.iterdir():
        assert "hunter2" not in path.read_text(), path
