"""Architectures and checkpoints."""
