"""From k-best lists to targets."""
