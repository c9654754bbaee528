"""Arrow shards, manifests, and token-budget batches."""
