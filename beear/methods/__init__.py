"""Defenses: the methods, their losses and their perturbations. Imports no ray."""
