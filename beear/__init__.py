"""BEEAR-on-Ray: remove safety backdoors from instruction-tuned language models without knowing the trigger."""

__version__ = "0.1.0"
