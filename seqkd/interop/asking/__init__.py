"""Questions to external workers: commands and endpoints that translate, score or filter."""
