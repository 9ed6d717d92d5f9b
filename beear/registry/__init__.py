"""Tracking and registration in MLflow, on the driver's side."""
