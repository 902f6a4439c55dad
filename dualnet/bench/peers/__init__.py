"""The programs to measure, and the process that measures them: ``runner.py``, which loads one of the others.

Only ``ours.py`` needs dualnet: every other file runs with any Python that has NumPy and the file's own library.
"""
