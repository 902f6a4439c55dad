"""oneDNN's C library under NumPy."""
