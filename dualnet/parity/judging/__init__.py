"""Compute cases in several ways, compare the results, and judge.

ways.py       the ways to compute a case: a backend, with its kernels or with their references
compare.py    two results side by side
judge.py      an op: every case in every way, against the truth and against each other
kernels.py    kernels against their references, on large shapes
pieces.py     kernels that no op calls by itself: optimizers, batches, columns, random words
algorithms.py every algorithm of a convolution alone
controls.py   mistakes made on purpose, which the comparison must find
"""
