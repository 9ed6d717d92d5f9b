"""The published records (report.json, search.json) as plain data, how numbers are shown, and what is taken out before."""
