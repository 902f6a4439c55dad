"""Gradients of many parameters in a few buckets, each sent as soon as the backward pass has filled it.

A backward pass has the gradients of the last layers first. While it continues, the gradients of a full bucket are
already being added up over all ranks. The first step only notes the order in which gradients come; from the second step
on the buckets are known, and are the same on every rank, since all ranks have the same network. If several small
batches make a step, gradients travel during the backward pass of the last one, together with the sums of the earlier
ones.

The numbers do not depend on any of this: each is the sum over the ranks in their order, whatever bucket it is in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ops.sums import wide
from ..shim import Array, backend_of
from .communicator import Communicator, Pending

__all__ = ["Buckets"]

Gradients = dict[str, Array]


class Buckets:
    """Adds up the gradients of a network over all ranks, in every step.

    ``filled(layer, gradients)`` may be called with gradients while the backward pass runs; ``summed(gradients)``
    returns the sums of all, by name. 16-bit gradients become float32. ``before`` holds the sums of the small batches
    before this one.
    """

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self.names: dict[int, str] = {}  # by the identity of the parameter
        self.came: list[str] = []  # in this order, in the first step
        self.plan: list[list[str]] | None = None
        self.early: dict[str, int] = {}  # the bucket of each gradient that comes once in a backward pass
        self.begin({})

    def begin(self, parameters: Mapping[str, Any]) -> None:
        """Begin a step in which these parameters get gradients. Forget whatever an interrupted step has left."""
        names = {id(parameter): name for name, parameter in parameters.items() if not parameter.frozen}
        if names != self.names:
            self.names, self.came, self.plan, self.early = names, [], None, {}
        self.before: Gradients = {}
        self.held: Gradients = {}  # as the backward pass gave them
        self.sent: Gradients = {}  # as they are sent: with ``before`` added
        self.waiting: dict[int, int] = {}
        self.pending: dict[int, Pending] = {}

    def filled(self, layer: Any, gradients: Gradients) -> None:
        """Take these gradients of a layer from the backward pass, by their names in the layer."""
        for local, gradient in gradients.items():
            name = self.names.get(id(getattr(layer, local, None)))
            if name is None:
                continue
            if self.plan is None:
                self.came.append(name)
            elif name in self.early:
                self._hold(name, gradient)
        for pending in self.pending.values():
            pending.test()  # so that it makes progress

    def _hold(self, name: str, gradient: Array) -> None:
        place = self.early[name]
        if name in self.held:  # a second time: it was not complete, so summed() sends it
            self.waiting[place] = -1
            self.held[name] = self.sent[name] = gradient
            return
        bucket = self.plan[place]  # type: ignore[index]
        self.held[name] = gradient
        self.sent[name] = wide(self.before[name]) + wide(gradient) if name in self.before else gradient
        left = self.waiting[place] = self.waiting.get(place, len(bucket)) - 1
        if left == 0:
            self.pending[place] = self._start([self.sent[one] for one in bucket])

    def added(self, gradients: Gradients) -> Gradients:
        """The gradients of the last small batch that are already being sent, as they are sent: with ``before``
        added."""
        return {name: self.sent[name] for name, g in gradients.items() if self.before and self.held.get(name) is g}

    def summed(self, gradients: Gradients) -> Gradients:
        """Every gradient as the sum over all ranks. Those of frozen parameters stay as they are."""
        names = [name for name in gradients if name in set(self.names.values())]
        if self.plan is None or sorted(name for bucket in self.plan for name in bucket) != sorted(names):
            self.plan = self._planned(names, gradients)
        for place, bucket in enumerate(self.plan):
            as_it_was = all(self.sent.get(name) is gradients[name] for name in bucket)  # no layer above changed it
            if not as_it_was and place in self.pending:
                self.pending.pop(place).wait()  # on all ranks; a buffer that MPI still fills must not be dropped
            if place not in self.pending:
                self.pending[place] = self._start([gradients[name] for name in bucket])
        for pending in self.pending.values():
            pending.forward()
        total = dict(gradients)
        for place, bucket in enumerate(self.plan):
            total |= dict(zip(bucket, self._apart(self.pending[place].wait(), [gradients[name] for name in bucket])))
        self.before, self.held, self.sent, self.pending = {}, {}, {}, {}  # gradients are not kept until the next step
        return total

    def _planned(self, names: list[str], gradients: Gradients) -> list[list[str]]:
        """Buckets in the order in which gradients come; those that come twice, or never by themselves, are last."""
        once = [name for name in dict.fromkeys(self.came) if self.came.count(name) == 1 and name in names]
        plan: list[list[str]] = []
        for some in (once, [name for name in names if name not in set(once)]):
            size = self.communicator.bucket_bytes
            for name in some:
                bytes_ = gradients[name].size * max(4, gradients[name].dtype.itemsize)
                if size + bytes_ > self.communicator.bucket_bytes:
                    plan.append([])
                    size = 0
                plan[-1].append(name)
                size += bytes_
        self.early = {name: place for place, bucket in enumerate(plan) for name in bucket if name in set(once)}
        return plan

    def _start(self, gradients: list[Array]) -> Pending:
        """Begin to add up a bucket. First send the last message of the buckets that have been under way for longest."""
        for pending in list(self.pending.values())[:-1]:
            pending.forward()
        xp = backend_of(gradients[0]).xp
        flat = [xp.reshape(wide(gradient), (-1,)) for gradient in gradients]
        return self.communicator.start_all_reduce(xp.concat(flat))

    def _apart(self, flat: Array, like: list[Array]) -> list[Array]:
        found, at = [], 0
        for gradient in like:
            found.append(flat[at : at + gradient.size].reshape(gradient.shape))
            at += gradient.size
        return found
