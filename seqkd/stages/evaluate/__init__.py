"""A model on a test corpus."""
