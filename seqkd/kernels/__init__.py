"""C++ kernels and their build: tensors and arrays in, tensors and arrays out; no module here knows a model."""
