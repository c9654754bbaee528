"""The stage `distill`: write k-best lists or soft targets of teachers."""
