"""The search engine for CPUs, on the C++ kernels of `seqkd.kernels`."""
