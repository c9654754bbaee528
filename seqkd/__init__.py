"""Offline sequence-level knowledge distillation for translation models, as a data pipeline."""

__version__ = "0.1.0"
