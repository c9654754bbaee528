"""Reading, normalisation and cleaning of bitext, and SentencePiece vocabularies."""
