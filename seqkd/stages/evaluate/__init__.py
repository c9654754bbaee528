"""The evaluation of a model on a test corpus."""
