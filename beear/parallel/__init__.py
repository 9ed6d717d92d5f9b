"""Parallel backends behind one small interface."""
