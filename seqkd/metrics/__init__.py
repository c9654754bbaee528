"""Numbers about outputs and corpora."""
