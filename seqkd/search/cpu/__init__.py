"""The search engine for CPUs, which uses the C++ kernels of `seqkd.kernels`."""
