"""C++ kernels for training on CPUs with a matrix unit."""
