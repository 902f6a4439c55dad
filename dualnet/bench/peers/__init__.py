"""What is measured, and the process it is measured in. ``runner.py`` is a program; it loads one of the others.

Apart from ``ours.py`` nothing here needs dualnet: each file runs under an interpreter that has NumPy and its library.
"""
