"""C++ kernels for sentence BLEU."""
