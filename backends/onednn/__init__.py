"""oneDNN's C library under NumPy: kernels for float32 arrays, with the references' numbers (within τ).

Results do not depend on the calling thread. With the same number of threads they are the same from run to run.

The kernels decline other dtypes, empty arrays, shapes for which oneDNN has only plain loops, and pooling with dilation:
they return ``NotImplemented``, so that the next kernel or the reference runs.
"""
