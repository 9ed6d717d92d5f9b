"""A run's evidence: report.json, and the page, card and table made from it."""
