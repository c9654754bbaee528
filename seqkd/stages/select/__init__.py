"""K-best lists to a distilled corpus."""
