"""Kernels for CuPy: CUDA sources and their launches, cuBLAS, cuDNN, and CUDA graphs."""
