"""``python -m beear.report.jsonschema``: print the JSON schema of report.json."""

import json
import sys

from beear.records.report import SCHEMA_VERSION, Report


def text() -> str:
    """Return the schema as it is published in docs/report.schema.json."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "version": SCHEMA_VERSION,
        **Report.model_json_schema(mode="serialization"),
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
