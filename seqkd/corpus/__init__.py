"""Arrow shards, manifests, and batches under a token budget."""
