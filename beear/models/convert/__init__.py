"""``python -m beear.models.convert DIR OUT``: makes safetensors of pickled or GGUF weights, in a process that is shut in."""
