"""Kernels for NumPy: each algorithm in a file of its own, asked in the order that numpy_backend.py gives."""
