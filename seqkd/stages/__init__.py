"""The stages, one folder each. They turn configuration into objects."""
