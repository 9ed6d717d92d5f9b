"""The typed configuration of a run: fields, command line, YAML, and defaults chosen from the model."""
