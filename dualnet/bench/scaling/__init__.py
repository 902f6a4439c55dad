"""How far data-parallel training scales: a model of one step on many ranks, ``dualnet plan --ranks R --net NAME``.

links.py     what an all-reduce costs, from latency and bandwidth: ring, tree, halving, hierarchical
steps.py     one step: compute, the all-reduce during the backward pass, the slowest rank, the input
planning.py  efficiency from 1 rank to many, where it falls, why, and what to change
here.py      the same numbers, measured on this machine

    plan(work_of(net, per_image=...), ranks=1024)

The model is for data parallelism: every rank holds the whole network. If a network is too large for one device, use a
framework that divides it, such as PyTorch FSDP or DeepSpeed.
"""

from .here import Check, check, measured
from .links import REDUCTIONS, Links, all_reduce
from .planning import Plan, plan
from .steps import BUCKET, Step, Work, slowest, step, work_of

__all__ = ["BUCKET", "REDUCTIONS", "Check", "Links", "Plan", "Step", "Work", "all_reduce", "check", "measured", "plan"]
__all__ += ["slowest", "step", "work_of"]
