"""C++ kernels and their build. They take and return tensors and arrays, and know nothing of models."""
