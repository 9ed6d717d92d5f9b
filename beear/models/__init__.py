"""Checkpoints: inspected, loaded safely, seen as layers, exported."""

import logging

# peft imports DeepSpeed, whose log says on stdout that a machine without a GPU has none.
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
