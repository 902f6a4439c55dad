"""Do R ranks compute what one computes? ``dualnet parity --ranks R``.

R ranks with their shares of each batch are compared with one rank that has all of it: losses, gradients and weights in
float64, in three ways, and then mistakes are made on purpose, which the comparison must find.

subjects.py   the networks, their images, and how they are trained
course.py     a training that is recorded step by step, and one that follows it from the same weights
controls.py   mistakes in the communication
judging.py    what each rank compares, and the verdict from the numbers of all ranks
rank.py       one rank, as a program
command.py    starts the ranks, and makes the table
"""
