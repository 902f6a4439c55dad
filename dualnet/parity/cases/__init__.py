"""The cases to compare, and the truth about each of them.

case.py     a case: an op, its arrays and its options, drawn from a seed and the same on every machine
draws.py    how the arguments of each op are drawn
truth.py   the result of plain loops in float64, and how far from it a right result may be
limits.py   every tolerance, with its reason
"""
