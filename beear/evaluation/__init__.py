"""Measures of a checkpoint, and the gate that decides on them."""
