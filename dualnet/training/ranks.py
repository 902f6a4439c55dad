"""``fit(..., distributed=True)``: what a training asks of the other ranks, and what differs from one rank.

Each batch is cut into one part per rank. Let rank r have n_r of the n examples, with the mean loss E_r over them.
The whole batch's loss is E = Σ n_r E_r / n (with weights Σ W_r E_r / W, where W_r = Σ w over the part), and so

    ∂E/∂w  =  Σ_r (n_r / n) · ∂E_r/∂w

The backward pass of each rank starts from n_r / n instead of from 1, and the gradients are added up. Everything that
follows (clipping, the loss scale's check for infinities, E17, averages of weights) sees the same numbers on all ranks,
so all ranks keep the same weights without ever comparing them.

:class:`Alone` is the same for one rank: it changes nothing, and costs nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NoReturn

import numpy

from ..distributed import Communicator, RankError, init
from ..distributed.buckets import Buckets
from ..layers.entering import home
from ..layers.layer import Layer
from ..layers.normalization import BatchNorm
from ..layers.several import parts as arrays_of
from ..layers.several import rows
from ..recording import assign
from ..sharing import Part, taking
from ..shim import Array, asarray, backend_of, to_numpy
from ..shim.dtypes import is_floating
from ..version import __version__
from .accumulating import Batch, added, apart, shares
from .batches import part_of
from .callbacks import Callback, Run
from .checks import norm_of_rows
from .ending import Ending, Terminated, ends_like_ctrl_c
from .shared_tally import SharedTally
from .sources import Arrays, Source
from .weighting import Weighting, total

__all__ = ["ALONE", "Alone", "Ranks", "ranks_of"]

MOST_TOLD = 6
MARKED = 2**16
ALIKE = 1e-4
"""How far apart the marks of equal weights may be, relative to their norm."""


class Alone:
    """A single rank: every question has a simple answer."""

    alone = leads = True

    def guard(self) -> AbstractContextManager[Any]:
        """Inside, an error of this rank ends the others too."""
        return nullcontext()

    def cut(self, *sources: Source | None) -> None:
        """Let each source read this rank's part of its batches alone."""

    def agree(
        self, op: str, net: Layer, data: Source, held_out: Source | None, describe: Callable[[], dict[str, Any]]
    ) -> None:
        """Raise on every rank if one of them is about to do something different from rank 0."""

    def check_capture(self) -> None:
        """Raise if a step cannot be captured."""

    def follow_the_first(self, net: Layer) -> None:
        """Give every rank the weights and the other state of rank 0."""

    def hooks(self, hooks: list[Callback]) -> list[Callback]:
        """The callbacks that this rank calls."""
        return hooks

    def tally(self, tally: Any) -> Any:
        """A tally of all ranks' examples."""
        return tally

    def add_up(self, tally: Any, net: Layer) -> None:
        """Add what all ranks have counted since the last time."""

    def steps(self, groups: Iterable[tuple[Any, ...]], run: Run) -> Iterator[tuple[Any, ...]]:
        """What the steps of an epoch are called with, until a callback stops it."""
        for group in groups:
            yield group
            if run.stop:
                break

    def shares(self, batches: list[Batch], weighting: Weighting | None) -> list[Any]:
        """See :func:`dualnet.training.accumulating.shares`."""
        return shares(batches, weighting)

    def part(self, net: Layer, place: int, of: int, before: dict[str, Array]) -> AbstractContextManager[Any]:
        """Inside, layers know that this small batch is a part of one. ``before``: the gradients of those before it."""
        return nullcontext()

    def added(self, gradients: dict[str, Array], more: dict[str, Array]) -> dict[str, Array]:
        """See :func:`dualnet.training.accumulating.added`."""
        return added(gradients, more)

    def summed(self, net: Layer, gradients: dict[str, Array]) -> dict[str, Array]:
        """The gradients of the whole batch."""
        return gradients

    def any(self, yes: bool) -> bool:
        """Does one rank say yes?"""
        return yes

    def seconds(self, seconds: float) -> float:
        """The time that rank 0 has measured."""
        return seconds

    def words(self, words: str) -> str:
        """What the ranks have to say, each with its number."""
        return words

    def bytes_of_the_first(self, data: bytes | None) -> bytes:
        """Bytes that rank 0 has read."""
        return data or b""


ALONE = Alone()


class Ranks(Alone):
    """Several ranks. ``synchronised``: batch norm takes its statistics from all of them."""

    alone = False

    def __init__(self, communicator: Communicator, accumulate: int = 1, synchronised: bool = False) -> None:
        self.communicator, self.accumulate, self.synchronised = communicator, accumulate, synchronised
        self.leads = communicator.rank == 0
        self.buckets = Buckets(communicator)
        self.counts = numpy.zeros((communicator.size, accumulate))  # examples of each rank in each small batch

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Inside, an error of this rank ends the others too."""
        try:
            yield
        except BaseException as error:
            self.communicator.fail(error)
            raise

    # -- before the first step

    def cut(self, *sources: Source | None) -> None:
        """Let each source read this rank's part of its batches alone."""
        for source in sources:
            if source is not None:
                source.rank, source.ranks = self.communicator.rank, self.communicator.size

    def check_capture(self) -> None:
        """Raise: a captured step runs without Python, but ranks need Python to send arrays."""
        raise ValueError("fit: capture=True works with one rank only; leave it out with distributed=True")

    def agree(
        self, op: str, net: Layer, data: Source, held_out: Source | None, describe: Callable[[], dict[str, Any]]
    ) -> None:
        """Raise ``ValueError`` on every rank if one of them is about to do something different from rank 0."""
        told = {"the call": op, "dualnet": __version__, "NumPy": numpy.__version__}
        told["Python"] = ".".join(platform.python_version_tuple()[:2])
        told |= {name: str(value) for name, value in describe().items()}
        told |= {"sync_batch_norm": str(self.synchronised), "batch norms that are synchronised": _synchronised(net)}
        told |= {name: str(getattr(self.communicator, name)) for name in ("kind", "overlap", "bucket_bytes")}
        for what, source in (("the data", data), ("the validation data", held_out)):
            if source is not None:
                told |= {f"the number of examples of {what}": str(source.examples)}
                told |= {f"a sample of {what}": _fingerprint(source)}
        found = _differences([json.loads(words) for words in self.communicator.gather_words(json.dumps(told))])
        if found:
            more = f"; and {len(found) - MOST_TOLD} more" if len(found) > MOST_TOLD else ""
            raise ValueError(
                f"{op}: the ranks do not agree: {'; '.join(found[:MOST_TOLD])}{more}. Every rank runs the same program "
                f"on the same data, and each takes its part. (This is rank {self.communicator.rank}; nothing was "
                "changed.)"
            )
        if op == "fit":  # follow_the_first will give all ranks the same weights
            self._check_parts(net, data)
        else:
            self._check_weights(op, net)

    def _check_weights(self, op: str, net: Layer) -> None:
        """Raise if a rank's weights differ from rank 0's: the figures would not be those of any one network.

        Unequal processors may round differently, so the last digits do not count.
        """
        state = {name: value for name, value in net.state_dict().items() if backend_of(value) is not None}
        told = self.communicator.gather_numbers(*(number for value in state.values() for number in _marks(value)))
        told = told.reshape((self.communicator.size, -1, 2))
        mark, size = told[..., 0], told[..., 1]  # (ranks, arrays)
        far = ~(numpy.abs(mark - mark[0]) <= ALIKE * numpy.maximum(size, size[0]))
        for rank in range(self.communicator.size):
            if far[rank].any():
                names = [name for name, one in zip(state, far[rank]) if one]
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise ValueError(
                    f"{op}: the ranks do not agree: {names[0]}{more} on rank {rank} is not what it is on rank 0. Load "
                    f"the same weights on every rank, or let rank 0 evaluate alone, without distributed. (This is rank "
                    f"{self.communicator.rank}.)"
                )

    def _check_parts(self, net: Layer, data: Source) -> None:
        """Raise if batch norm would get a single number, which has no variance, on some rank."""
        size, count = self.communicator.size, data.examples or 0
        batches = {min(data.size, count), count % data.size} if data.size else set()
        alone = [n for n in batches if any(b - a == 1 for a, b in (part_of(n, rank, size) for rank in range(size)))]
        if alone and not self.synchronised and (name := norm_of_rows(net)) is not None:
            raise ValueError(
                f"fit: with {size} ranks, a batch of {alone[0]} examples leaves one rank a single example, but layer "
                f"{name} (BatchNorm) needs two. Pass sync_batch_norm=True, or choose a different batch_size."
            )

    def follow_the_first(self, net: Layer) -> None:
        """Give every rank the weights and the other state of rank 0."""
        state = net.state_dict()
        numbers = {name: value for name, value in state.items() if backend_of(value) is None}
        sent = self.communicator.broadcast_bytes(json.dumps(numbers).encode() if self.leads else None)
        arrays = {name: value for name, value in state.items() if name not in numbers}
        arrays = {name: self.communicator.broadcast(value) for name, value in arrays.items()}
        if not self.leads:
            net.load_state_dict({name: json.loads(sent)[name] if name in numbers else arrays[name] for name in state})

    def hooks(self, hooks: list[Callback]) -> list[Callback]:
        """Callbacks that write files run on rank 0 only."""
        return [hook for hook in hooks if self.leads or not hook.writes]

    def tally(self, tally: Any) -> Any:
        """A tally of all ranks' examples."""
        return SharedTally(self.communicator, tally)

    def add_up(self, tally: Any, net: Layer) -> None:
        """Add what all ranks have counted since the last time."""
        tally.gather(home(net))

    # -- in a step

    def steps(self, groups: Iterable[tuple[Any, ...]], run: Run) -> Iterator[tuple[Any, ...]]:
        """The arguments of the steps. Before each step the ranks tell each other how many examples they have.

        The same message says whether a callback has stopped the epoch, or a signal has asked the program to end, so
        that all ranks stop after the same step.
        """
        with ends_like_ctrl_c() as ending, ending:  # a signal waits, so that no rank ends while the others continue
            for group in itertools.chain(groups, [None]):
                counts = [] if group is None else [rows(x) for x, _, _ in apart(group)]
                padding = [0] * (self.accumulate - len(counts))
                told = self.communicator.gather_numbers(run.stop, ending.waiting or 0, len(counts), *counts, *padding)
                self._check_told(told, run)
                if told[:, 1].any():
                    self._end_together(int(told[:, 1].argmax()), ending)
                run.stop = bool(told[:, 0].any())
                if run.stop or group is None:
                    return
                self.counts = told[:, 3:]
                yield group

    def _check_told(self, told: numpy.ndarray, run: Run) -> None:
        ended = [rank for rank in range(self.communicator.size) if told[rank, 2] != told[0, 2]]
        if ended:
            raise RankError(
                f"rank {ended[0]} has {told[ended[0], 2]:.0f} batches for step {run.batch + 1} of this epoch, and "
                f"rank 0 {told[0, 2]:.0f}; give every rank all batches, and it takes its part of each"
            )

    def _end_together(self, rank: int, ending: Ending) -> NoReturn:
        """If one rank is asked to end, by Ctrl-C or SIGTERM, all ranks end between the same two steps."""
        number, ending.waiting = ending.waiting, None
        error = KeyboardInterrupt(f"rank {rank} was asked to end, and all ranks do")
        if number is not None and number != signal.SIGINT:
            error = Terminated(number)
        self.communicator.together = error
        raise error

    def shares(self, batches: list[Batch], weighting: Weighting | None) -> list[Any]:
        """This rank's share of the mean over all ranks' examples, for each small batch."""
        if weighting is None:
            return [float(rows(x) / self.counts.sum()) for x, _, _ in batches]
        totals = [total(weighting(t, w)) for _, t, w in batches]
        xp = backend_of(totals[0]).xp
        whole = xp.sum(self.communicator.all_reduce(xp.stack(totals)))
        whole = xp.where(whole > 0.0, whole, 1.0)
        return [one / whole for one in totals]

    @contextmanager
    def part(self, net: Layer, place: int, of: int, before: dict[str, Array]) -> Iterator[None]:
        """Inside, layers know that this small batch, one ``of`` several, is only a part of a batch.

        While the backward pass of the last small batch runs, its gradients, added to those of the small batches before
        it, travel to the other ranks.
        """
        communicator, counts = self.communicator, self.counts[:, place].astype(int)
        rank = communicator.rank
        if place == 0:
            self.buckets.begin(net.parameters())
        self.buckets.before = before
        filled = self.buckets.filled if communicator.overlap and place == of - 1 else None
        mine = Part(
            start=int(counts[:rank].sum()),
            rows=int(counts[rank]),
            whole=int(counts.sum()),
            add=communicator.all_reduce,
            synchronised=self.synchronised,
            filled=filled,
        )
        with taking(mine):
            yield

    def added(self, gradients: dict[str, Array], more: dict[str, Array]) -> dict[str, Array]:
        """The sums of the small batches' gradients; those that are already travelling are not added twice."""
        done = self.buckets.added(more)
        return added(gradients, {name: g for name, g in more.items() if name not in done}) | done

    def summed(self, net: Layer, gradients: dict[str, Array]) -> dict[str, Array]:
        """The gradients of the whole batch; running statistics become the mean over the ranks."""
        gradients = self.buckets.summed(gradients)
        self._average(net)
        return gradients

    def _average(self, net: Layer) -> None:
        """Running statistics that are not synchronised become the ranks' mean, weighted by their examples."""
        found: dict[tuple[int, str], tuple[Any, str, Array]] = {}
        for _, layer in net.walk():
            if not isinstance(layer, BatchNorm) or not (layer.synchronised or self.synchronised or layer.frozen):
                found |= {
                    (id(layer), name): (layer, name, value)
                    for name in layer.state_names
                    if backend_of(value := getattr(layer, name)) is not None and is_floating(value.dtype)
                }
        if not found:
            return
        mine = float(self.counts[self.communicator.rank].sum() / self.counts.sum())
        xp = backend_of(next(iter(found.values()))[2]).xp
        flat = xp.concat([xp.reshape(value, (-1,)) for _, _, value in found.values()])
        flat, at = self.communicator.all_reduce(flat * mine), 0
        for layer, name, value in found.values():
            assign(layer, name, flat[at : at + value.size].reshape(value.shape).astype(value.dtype, copy=False))
            at += value.size

    # -- at other times

    def any(self, yes: bool) -> bool:
        """Does one rank say yes?"""
        return bool(self.communicator.gather_numbers(yes).any())

    def seconds(self, seconds: float) -> float:
        """The time that rank 0 has measured."""
        return float(self.communicator.gather_numbers(seconds)[0, 0])

    def words(self, words: str) -> str:
        """What the ranks have to say, each with its number."""
        every = self.communicator.gather_words(words)
        return " ".join(f"Rank {rank}: {said}" for rank, said in enumerate(every) if said)

    def bytes_of_the_first(self, data: bytes | None) -> bytes:
        """Bytes that rank 0 has read."""
        return self.communicator.broadcast_bytes(data if self.leads else None)


def ranks_of(op: str, distributed: Any, accumulate: int = 1, synchronised: bool = False) -> Alone:
    """The ranks for the argument ``distributed``: False, True, or a communicator.

    >>> ranks_of("fit", False).alone, ranks_of("fit", True).alone  # started by itself, a program is the only rank
    (True, True)
    """
    if distributed is False or distributed is None:
        return ALONE
    if distributed is not True and not isinstance(distributed, Communicator):
        raise TypeError(
            f"{op}: distributed must be True, False or what dn.distributed.init() returned, got {distributed!r}"
        )
    communicator = init() if distributed is True else distributed
    return ALONE if communicator.size == 1 else Ranks(communicator, accumulate, synchronised)


def _differences(every: list[dict[str, str]]) -> list[str]:
    """Where a rank differs from rank 0.

    >>> _differences([{"seed": "0"}, {"seed": "0"}, {"seed": "1"}])
    ['seed is 1 on rank 2, 0 on rank 0']
    """
    first = every[0]
    return [
        f"{name} is {other.get(name, 'missing')} on rank {rank}, {first.get(name, 'missing')} on rank 0"
        for rank, other in enumerate(every)
        for name in dict.fromkeys([*first, *other])
        if first.get(name) != other.get(name)
    ]


def _marks(array: Array) -> tuple[float, float]:
    """A sum that differs between different arrays, and the norm. For a large array, some ten thousand numbers will do.

    >>> mark, norm = _marks(numpy.array([3.0, 4.0]))
    >>> norm, mark != _marks(numpy.array([4.0, 3.0]))[0]
    (5.0, True)
    """
    flat = to_numpy(array.reshape(-1)[:: 1 + array.size // MARKED]).astype("float64")
    finite = numpy.isfinite(flat)
    if not finite.all():  # one finite number for each kind, since ∞ − ∞ is NaN
        most = float(numpy.abs(flat[finite]).max(initial=0.0)) or 1.0
        flat = numpy.nan_to_num(flat, nan=most, posinf=2 * most, neginf=-2 * most)
    return float(flat @ numpy.cos(numpy.arange(flat.size))), float(numpy.linalg.norm(flat))


def _synchronised(net: Layer) -> str:
    return str([name for name, layer in net.walk() if getattr(layer, "synchronised", False)])


def _fingerprint(source: Source) -> str:
    """A few examples as a short text; of arrays, the first, the middle and the last."""
    x, t, w = source.sample()
    found = hashlib.sha256()
    for given in (x, t, w):
        for name, array in arrays_of(given, "x") if given is not None else ():
            few = sorted({0, len(array) // 2, len(array) - 1}) if isinstance(source, Arrays) else range(len(array))
            found.update(f"{name} {array.dtype} {tuple(array.shape[1:])}".encode())
            for place in few:
                found.update(numpy.ascontiguousarray(to_numpy(_one(array, place))).tobytes())
    return found.hexdigest()[:12]


def _one(array: Any, place: int) -> Any:
    row = array[place : place + 1]
    return row if backend_of(row) is not None else asarray(row, backend="numpy")
