"""Corpora and an architecture to a model."""
