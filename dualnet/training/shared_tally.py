"""A tally over several ranks: each adds up its own examples of a step, and then every rank gets the sums of all."""

from __future__ import annotations

import math
from typing import Any

import numpy

from ..distributed import Communicator
from ..recording import assign
from ..shim import Array, asarray, backend_of, load, to_numpy
from .metrics import Collected

__all__ = ["SharedTally"]


class SharedTally:
    """Works like a :class:`Tally` (of one or several outputs), but over all ranks.

    ``add`` counts examples of this rank; ``gather``, which all ranks call, adds up those of all ranks. After that, any
    rank can read the figures at any time.
    """

    def __init__(self, communicator: Communicator, tally: Any) -> None:
        self.communicator, self.tally = communicator, tally
        self.inside = list(getattr(tally, "parts", [tally]))
        self.exact = tally.exact
        self.sums: Any = None  # over all ranks and steps, as one array; None before the first step
        self.layout: list[Any] = []
        self.collected: list[dict[str, list[Any]]] = [{} for _ in self.inside]

    @property
    def parts(self) -> list[Any]:
        """The parts that must be restored when a step is undone."""
        return [self, *self.inside]

    def begin(self) -> None:
        """Start again from nothing."""
        self.tally.begin()
        self.sums = None
        self.collected = [{} for _ in self.inside]

    def add(self, *batch: Any) -> None:
        """Examples of this rank."""
        self.tally.add(*batch)

    def gather(self, where: str) -> None:
        """Add what each rank has counted since the last time. ``where``: the name of the network's backend."""
        backend = load(where)
        self.layout = self._layout()
        total = self.communicator.all_reduce(backend.xp.concat([_as_row(v, backend) for v in self._values()]))
        before = self.sums
        if before is not None and backend_of(before) is not backend:  # it came from a checkpoint
            before = asarray(before, backend=backend.name)
        assign(self, "sums", total if before is None else before + total)
        self._gather_collected()
        self.tally.begin()

    def _layout(self) -> list[Any]:
        """The meaning of each number in ``sums``: a name, or the key and the shape of a metric's array."""
        return [
            what
            for tally in self.inside
            for what in (
                *tally.names,
                *((key, tuple(v.shape)) for key, v in tally.sums.items() if not isinstance(v, Collected)),
            )
        ]

    def _values(self) -> list[Any]:
        """The numbers and arrays of this rank, in that order."""
        return [
            value
            for tally in self.inside
            for value in (
                *(getattr(tally, name) for name in tally.names),
                *(v for v in tally.sums.values() if not isinstance(v, Collected)),
            )
        ]

    def _gather_collected(self) -> None:
        """For metrics that need all outputs: gather those of every rank, in the order of the examples."""
        for place, tally in enumerate(self.inside):
            for key, value in tally.sums.items():
                if isinstance(value, Collected):
                    before = self.collected[place].get(key, [])
                    self.collected[place] = self.collected[place] | {key: before + self._of_all(value.batches)}

    def _of_all(self, batches: list[Any]) -> list[Any]:
        return [
            batch
            for mine in batches
            for batch in zip(*(self._all_parts(array) for array in mine))
            if batch[0] is not None and len(batch[0])
        ]

    def _all_parts(self, array: Any) -> list[Any]:
        """The arrays of all ranks, which may have different lengths."""
        size = self.communicator.size
        if array is None:
            return [None] * size
        counts = self.communicator.gather_numbers(len(array))[:, 0].astype(int)
        host = to_numpy(array)
        padded = numpy.zeros((int(counts.max()), *host.shape[1:]), host.dtype)
        padded[: len(host)] = host
        every = self.communicator.all_gather(padded)
        return [asarray(every[rank][:count], backend="numpy") for rank, count in enumerate(counts)]

    def _read(self) -> Any:
        """The tally of one process that holds all sums."""
        if self.sums is None:
            self.tally.begin()
            return self.tally
        host, at, place = to_numpy(self.sums), 0, -1
        for what in self.layout:
            shape = () if isinstance(what, str) else what[1]
            count = math.prod(shape)
            value = host[at : at + count].reshape(shape)
            at += count
            if what == self.inside[0].names[0]:
                place += 1
            if isinstance(what, str):
                setattr(self.inside[place], what, value.item())
            else:
                self.inside[place].sums[what[0]] = value
        for tally, collected in zip(self.inside, self.collected):
            tally.sums |= {key: Collected(batches) for key, batches in collected.items()}
            tally.hits = tally.hits if tally.right is not None else None
            tally.kept = tally.kept if tally.weighting is not None and tally.weighting.ignore is not None else None
        return self.tally

    def figures(self) -> dict[str, float]:
        """The same figures as those of a tally."""
        found = self._read().figures()
        self.tally.begin()
        return found

    def glance(self) -> dict[str, float]:
        """Only loss and accuracy."""
        found = self._read().glance()
        self.tally.begin()
        return found

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, as in the tally of one process: a training may continue with any number of ranks."""
        found = self._read().state_dict()
        self.tally.begin()
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from these sums."""
        self.tally.load_state_dict(state)
        host = backend_of(numpy.zeros(1))
        self.layout = self._layout()
        self.sums = numpy.concatenate(
            [_as_row(v if backend_of(v) is None else to_numpy(v), host) for v in self._values()]
        )
        self.collected = [
            {key: value.batches for key, value in tally.sums.items() if isinstance(value, Collected)}
            for tally in self.inside
        ]
        self.tally.begin()


def _as_row(value: Any, backend: Any) -> Array:
    """A number or an array as a row of float64; None is 0."""
    if backend_of(value) is None:
        return backend.xp.full((1,), float(value or 0.0), dtype="float64")
    return backend.xp.reshape(value, (-1,)).astype("float64")
