"""The life of a run: check, place, deliver."""
