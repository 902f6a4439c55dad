"""The machines: a file for each array library, and its kernels in a folder beside it."""
