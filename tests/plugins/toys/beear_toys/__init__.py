"""A method, a measure and an attack for BEEAR-on-Ray, added from outside."""
