"""Models that write all target positions at once."""
