"""A CPU engine for Transformers: kernels in C++, compiled on first use."""
