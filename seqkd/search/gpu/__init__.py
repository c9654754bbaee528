"""Search on a CUDA device: Triton kernels, fixed shapes, steps replayed as CUDA graphs."""
