"""Selection of targets from k-best lists."""
