"""Checkpoints: inspected, loaded safely, seen as layers, exported."""

import logging

# Imported on the way by peft; it announces on stdout that a machine without a GPU has none.
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
