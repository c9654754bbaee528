"""Extensions of seqkd, one module each."""
