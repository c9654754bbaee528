"""Text files to corpora and a vocabulary."""
