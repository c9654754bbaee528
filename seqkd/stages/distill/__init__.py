"""Teachers and a corpus to k-best lists or soft targets."""
