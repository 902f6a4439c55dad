"""CUDA, cuBLAS and cuDNN under CuPy."""
