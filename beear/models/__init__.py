"""Checkpoints: inspected, loaded safely, seen as layers, exported."""
