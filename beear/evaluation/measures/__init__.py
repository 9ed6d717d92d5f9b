"""Measures: one file each, listed in :mod:`beear.evaluation.measures.table`."""
