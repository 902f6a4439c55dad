"""Kernels for NumPy: each algorithm in its own file, asked in the order that numpy_backend.py gives."""
