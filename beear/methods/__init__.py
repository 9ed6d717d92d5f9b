"""Defenses: the bi-level solve, its losses and placements. No ray."""
