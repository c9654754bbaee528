"""Reading, normalising and cleaning bitext; the SentencePiece vocabulary."""
