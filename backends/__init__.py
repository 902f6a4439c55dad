"""Backends: one file for each array library, with its kernels in a folder beside it."""
