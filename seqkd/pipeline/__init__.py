"""The pipeline file, its graph of stages, and the Make rules."""
