"""The published records, as plain data: report.json and search.json."""
