"""Where examples come from: arrays, data sets with numbered examples, and anything that yields batches.

Each source answers the same questions: ``sample`` returns some examples to check before the first step; ``examples``
and ``steps`` say how many there are, if that is known; and ``epoch(net, number)`` yields the batches of an epoch on the
network's backend, as ``(x, t, w)``. w holds the weights of the examples, or is None.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy

from ..data import Augment
from ..layers.entering import home
from ..layers.layer import Layer
from ..layers.several import each, rows
from ..shim import Array, asarray, backend_of, to_numpy
from .ahead import one_ahead
from .batches import batches, cuts, mixed_targets, order_of, part_of, parted
from .checks import examples
from .weighting import sample_weights

__all__ = ["Arrays", "Batches", "Examples", "Source", "source"]

Batch = tuple[Any, Any, Any]
"""x, t and w, where t and w may be None."""

KEYS = {
    "x": ("x", "image", "img", "pixel_values"),
    "t": ("t", "y", "label", "labels", "fine_label"),
    "w": ("w", "sample_weight"),
}
"""The keys for x, t and w in examples that are dictionaries."""

EVALUATED = 256
"""How many examples are evaluated at a time."""

LOOKED_AT = 8
"""How many examples of a data set are checked before the first step."""


class Source:
    """Base class of all sources. ``op`` names the caller in messages; ``look(x, t)`` checks each batch before use."""

    op: str
    examples: int | None = None
    steps: int | None = None
    kind = "batches"
    look: Callable[[Any, Any], None] | None = None
    augment: Augment | None = None
    size = seed = 0
    shuffle = moving = False
    rank, ranks = 0, 1
    """With several ranks, each reads its part of every batch."""

    once = False
    """True if its batches can be read only once, like those of a generator."""

    def inputs(self, net: Layer) -> Any:
        """x of some examples, to initialise a network for them."""
        x = self.sample()[0]
        if not isinstance(x, dict) and (not isinstance(self, Arrays) or self.of_torch):
            _check_channels(self.op, net, tuple(x.shape))
        return x

    def check_epochs(self, epochs: int) -> None:
        """Raise ``ValueError`` if there are not enough batches for this many epochs."""

    def extent(self, size: int) -> tuple[int, int]:
        """The number of examples, and the size of a batch; the last batch may be smaller."""
        return (self.examples or 0), size

    def sample(self) -> Batch:
        """Some examples, as arrays; if the source holds arrays, all of them."""
        raise NotImplementedError

    def epoch(self, net: Layer, number: int = 0, *, ahead: bool = True) -> Generator[Batch, None, None]:
        """The batches of this epoch, on the network's backend. ``ahead``: a thread may prepare the next one."""
        raise NotImplementedError

    def split(self, share: float) -> tuple[Source, Source]:
        """Two sources: the first examples, and this share of them all, taken from the end."""
        raise ValueError(
            f"{self.op}: validation_split={share} needs arrays, or a data set with a length, but {self.kind} cannot be "
            "split. Pass validation_data instead."
        )

    def _looked_at(self, where: str, x: Any, t: Any) -> None:
        if self.look is not None:
            try:
                self.look(x, t)
            except (ValueError, TypeError) as error:
                told = str(error).removeprefix(f"{self.op}: ")
                raise type(error)(f"{self.op}: {where}: {told}") from error

    def _plan(self, number: int) -> tuple[numpy.ndarray, Any, list[slice], int]:
        """The order of an epoch, how images are moved, the slices that are batches, and how many of each are extra."""
        count: int = self.examples  # type: ignore[assignment]
        order = order_of(count, self.seed, number, self.shuffle)
        moves = self.augment.moves(count, seed=self.seed, epoch=number) if self.augment and self.moving else None
        if self.ranks == 1:
            return order, moves, cuts(count, self.size), 0
        extra = getattr(self.augment, "mixtures", 0) if self.moving else 0
        places, slices = parted(count, self.size, self.rank, self.ranks, extra)
        return order[places], None if moves is None else moves[places], slices, extra

    def _options(self, training: bool) -> dict[str, Any]:
        """The options for a part of the examples, to learn from or to validate with."""
        options: dict[str, Any] = {"seed": self.seed, "augment": self.augment}
        if training:
            return options | {"size": self.size, "shuffle": self.shuffle, "moving": self.moving}
        return options | {"size": EVALUATED, "shuffle": False, "moving": False}

    def _cut(self, share: float) -> int:
        first = self.examples - round(self.examples * share)  # type: ignore[operator]
        if not 0 < first < self.examples:  # type: ignore[operator]
            raise ValueError(
                f"{self.op}: validation_split={share} leaves nothing on one side of {self.examples} examples"
            )
        return first


class Arrays(Source):
    """Inputs x (N, ...) and targets t: each batch is gathered on their backend, and copied to the network's."""

    def __init__(
        self, op: str, x: Any, t: Any, w: Any, *, size: int, seed: int, shuffle: bool, augment: Any, moving: bool
    ) -> None:
        self.op, (self.x, self.t), self.of_torch = op, examples(op, x, t), hasattr(x, "permute")
        self.examples, self.size = rows(self.x), size
        self.w = sample_weights(op, w, self.examples)
        self.steps = math.ceil(self.examples / size)
        self.seed, self.shuffle, self.augment, self.moving = seed, shuffle, augment, moving

    def sample(self) -> Batch:
        return self.x, self.t, self.w

    def epoch(self, net: Layer, number: int = 0, *, ahead: bool = True) -> Generator[Batch, None, None]:
        order, moves, slices, extra = self._plan(number)
        pairs = batches(net, self.x, self.t, slices, order, self.augment, moves, extra)
        if self.w is None:
            yield from ((x, t, None) for x, t in pairs)
            return
        there = home(net)
        for place, (x, t) in zip(slices, pairs):
            yield x, t, asarray(self.w[order[place][: rows(x)]], backend=there)

    def split(self, share: float) -> tuple[Arrays, Arrays]:
        first = self._cut(share)
        (x, xv), (t, tv), (w, wv) = (
            [None if a is None else each(lambda a: a[part], a) for part in (slice(first), slice(first, None))]  # noqa: B023
            for a in (self.x, self.t, self.w)
        )
        train, held_out = self._options(True), self._options(False)
        return Arrays(self.op, x, t, w, **train), Arrays(self.op, xv, tv, wv, **held_out)


class Examples(Source):
    """A data set with a length and numbered examples: it is shuffled by the seed and cut into batches here."""

    kind = "a data set"

    def __init__(
        self,
        op: str,
        data: Any,
        *,
        size: int,
        seed: int,
        shuffle: bool,
        augment: Augment | None,
        moving: bool,
        places: range | None = None,
        targets: bool = True,
    ) -> None:
        self.op, self.data, self.size, self.targets = op, data, size, targets
        self.places = range(len(data)) if places is None else places
        self.seed, self.shuffle, self.augment, self.moving = seed, shuffle, augment, moving
        self.examples = len(self.places)
        if not self.examples:
            raise ValueError(f"{op}: the data set holds no examples; expected at least one")
        self.steps = math.ceil(self.examples / size)
        self.first = self._one(self.places[0])

    def sample(self) -> Batch:
        return self._batch(self.places[: min(LOOKED_AT, self.size)])

    def epoch(self, net: Layer, number: int = 0, *, ahead: bool = True) -> Generator[Batch, None, None]:
        order, moves, slices, extra = self._plan(number)
        chosen = [[self.places[i] for i in order[place]] for place in slices]
        made = map(self._batch, chosen)
        with contextlib.closing(one_ahead(made, ahead)) as found:
            for place, places, batch in zip(slices, chosen, found):
                self._check(places, *batch[:2])
                x, t, w = _there(net, *batch, self.augment, None if moves is None else moves[place])
                if extra:  # examples that only served for mixing
                    x, t, w = x[:-extra], t[:-extra], None if w is None else w[:-extra]
                yield x, t, w

    def split(self, share: float) -> tuple[Examples, Examples]:
        first = self._cut(share)
        train, held_out = self._options(True), self._options(False)
        return (
            Examples(self.op, self.data, places=self.places[:first], **train),
            Examples(self.op, self.data, places=self.places[first:], **held_out),
        )

    def _one(self, place: int) -> list[Any]:
        """x, t and w of one example, as arrays on the host."""
        try:
            example = self.data[place]
        except MemoryError:
            raise
        except Exception as error:
            raise RuntimeError(
                f"{self.op}: element {place} of the data set: {type(error).__name__}: {error}"
            ) from error
        try:
            return [None if a is None else _on_host(a) for a in _parts(example, "an example", self.targets)]
        except (ValueError, TypeError) as error:
            raise type(error)(f"{self.op}: element {place} of the data set: {error}") from error

    def _batch(self, places: Sequence[int]) -> Batch:
        if not len(places):  # a small batch may leave nothing for the last rank
            x, t, w = (None if a is None else numpy.empty((0, *a.shape), a.dtype) for a in self.first)
            return x, t, w
        found = [self._checked(place, self._one(place)) for place in places]
        x, t, w = (None if column[0] is None else numpy.stack(column) for column in zip(*found))
        return x, t, w

    def _checked(self, place: int, one: list[Any]) -> list[Any]:
        """Raise unless this example is like the first one."""
        for name, a, b in zip("xtw", one, self.first):
            told = ["missing" if c is None else f"{c.dtype.name} of shape {c.shape}" for c in (a, b)]
            alike = a is b is None or (a is not None and b is not None and a.shape == b.shape)
            if not alike or (a is not None and (a.dtype.kind in "iub") != (b.dtype.kind in "iub")):
                raise ValueError(
                    f"{self.op}: element {place} of the data set: its {name} is {told[0]}, and that of element "
                    f"{self.places[0]} {told[1]}; expected examples of the same shape and kind. "
                    "Resize the images when you read them."
                )
        return one

    def _check(self, places: Sequence[int], x: Any, t: Any) -> None:
        """Check a batch; if something is wrong with it, check its examples one by one, to name the wrong one."""
        if not len(places):
            return
        try:
            self._looked_at(f"elements {', '.join(map(str, places))} of the data set", x, t)
        except (ValueError, TypeError):
            for k, place in enumerate(places):
                self._looked_at(f"element {place} of the data set", x[k : k + 1], t[k : k + 1])
            raise


class Batches(Source):
    """Ready-made batches: from a list, a data loader, a generator, or a function that starts an epoch."""

    def __init__(
        self, op: str, given: Any, *, steps: int | None = None, augment: Augment | None = None, targets: bool = True
    ) -> None:
        self.op, self.given, self.augment, self.targets = op, given, augment, targets
        self.once = hasattr(given, "__next__")
        self.kind = f"a {type(given).__name__}" if not callable(given) else "a function"
        self.steps = steps if steps is not None else _length(given)
        self.asked = steps
        self.begun: Iterator[Any] | None = None
        known = _length(given)
        if steps is not None and known is not None and known < steps:
            raise ValueError(f"{op}: steps_per_epoch={steps}, but {self.kind} holds only {known} batches")

    def sample(self) -> Batch:
        """The first batch. It is not lost: the first epoch begins with it."""
        if self.begun is None:
            begun = self._begin()
            first = next(begun, None)
            if first is None:
                raise ValueError(f"{self.op}: {self.kind} yielded no batches; expected at least one")
            self.begun = itertools.chain([first], begun)
            self.first = self._arrays(0, first)
        return self.first

    def epoch(self, net: Layer, number: int = 0, *, ahead: bool = True) -> Generator[Batch, None, None]:
        self.sample()
        begun: Any = self.begun
        if not self.once:
            self.begun = None
        made = itertools.starmap(self._arrays, enumerate(itertools.islice(begun, self.asked)))
        count = 0
        with contextlib.closing(one_ahead(made, ahead)) as found:
            for count, (x, t, w) in enumerate(found, 1):
                self._looked_at(f"batch {count}", x, t)
                if self.ranks > 1:
                    mine = slice(*part_of(len(x), self.rank, self.ranks))
                    x, t, w = x[mine], t[mine], None if w is None else w[mine]
                yield _there(net, x, t, w, self.augment, None)
        if count < (self.asked or 1):
            raise ValueError(
                f"{self.op}: epoch {number + 1}: {self.kind} yielded {count} batches"
                + (f" of the {self.asked} that steps_per_epoch asks for." if self.asked else ".")
                + (" It is exhausted; pass a function that creates a new one." if self.once else "")
            )

    def check_epochs(self, epochs: int) -> None:
        if self.once and epochs > 1 and self.asked is None:
            raise ValueError(
                f"{self.op}: {self.kind} yields its batches only once, but there are {epochs} epochs. Pass a function "
                "that creates a new one for each, such as lambda: batches(). If it never ends, pass steps_per_epoch to "
                "say where an epoch ends."
            )

    def _begin(self) -> Iterator[Any]:
        try:
            return iter(self.given() if callable(self.given) and not hasattr(self.given, "__iter__") else self.given)
        except TypeError as error:
            raise TypeError(f"{self.op}: {self.kind} returned nothing to iterate over: {error}") from error

    def _arrays(self, place: int, given: Any) -> Batch:
        """A batch as arrays, on the host or on the device that they came from."""
        try:
            parts: list[Any] = [None if a is None else _as_array(a) for a in _parts(given, "a batch", self.targets)]
            x, t, w = parts
            if t is not None and t.ndim == 0:
                raise ValueError(
                    f"x has shape {tuple(x.shape)} and t is one number, like a single example; expected batches "
                    "(N, ...). A data set with a length and numbered examples is cut into batches for you."
                )
            if x.ndim < 2:
                raise ValueError(f"x has shape {tuple(x.shape)}; expected a batch (N, ...)")
            if t is not None and len(x) != len(t):
                raise ValueError(f"x holds {len(x)} examples and t {len(t)}; expected a target for each example")
            if w is not None and tuple(w.shape) != (len(x),):
                raise ValueError(f"its weights have shape {tuple(w.shape)}; expected one for each of {len(x)} examples")
            if len(x) == 0:
                raise ValueError("it holds no examples; expected at least one")
        except (ValueError, TypeError) as error:
            raise type(error)(f"{self.op}: batch {place + 1}: {error}") from error
        return x, t, w


# -- which is which ----------------------------------------------------------------------------------------------------


def source(
    op: str,
    x: Any,
    t: Any = None,
    w: Any = None,
    *,
    size: int = 64,
    seed: int = 0,
    shuffle: bool = False,
    augment: Augment | None = None,
    moving: bool = False,
    steps: int | None = None,
) -> Source:
    """The source for the given data: with t, arrays; without t, a data set, or something that yields batches.

    ``moving``: ``augment`` also moves images, and does not only normalise them.
    """
    options: dict[str, Any] = {"size": size, "seed": seed, "shuffle": shuffle, "augment": augment, "moving": moving}
    if t is None:
        _check_alone(op, x)
        if w is not None:
            raise ValueError(f"{op}: sample_weight is for arrays x and t; yield (x, t, weights) instead")
        if not is_data_set(x):
            if augment is not None and moving:
                raise ValueError(
                    f"{op}: augment works with arrays and with data sets that have a length. For ready-made batches, "
                    "call augment.batch(x, order, moves) yourself when you make them."
                )
            return Batches(op, x, steps=steps, augment=augment)
    if steps is not None:
        raise ValueError(f"{op}: steps_per_epoch is for ready-made batches; leave it out here")
    return Examples(op, x, **options) if t is None else Arrays(op, x, t, w, **options)


def is_data_set(x: Any) -> bool:
    """Does x return an example for a number? (Lists hold batches instead.)

    >>> is_data_set([]), is_data_set("abc"), is_data_set(iter([]))
    (False, True, False)
    """
    return hasattr(x, "__len__") and hasattr(x, "__getitem__") and not isinstance(x, (list, tuple))


def _check_alone(op: str, x: Any) -> None:
    """Raise if x needs a t."""
    if backend_of(x) is not None or hasattr(x, "__dlpack__") or _is_nested_numbers(x):
        raise TypeError(f"{op}: x is an array, but its targets t are missing; pass both x and t")
    if isinstance(x, (tuple, list)) and len(x) in (2, 3) and all(hasattr(part, "shape") for part in x):
        raise TypeError(
            f"{op}: got one {type(x).__name__} of {len(x)} arrays; pass x and t separately, or a list of batches (x, t)"
        )
    if isinstance(x, Mapping):
        keys = ", ".join(map(repr, itertools.islice(x, 12)))
        several = any(is_data_set(part) and not hasattr(part, "shape") for part in x.values())
        way = f"one of its data sets, such as d[{next(iter(x))!r}]" if several else "x and t: d['image'], d['label']"
        raise TypeError(f"{op}: got a dictionary with the keys {keys}; pass {way}")
    if not is_data_set(x) and not isinstance(x, Iterable) and (not callable(x) or isinstance(x, type)):
        raise TypeError(
            f"{op}: got {x!r:.60}; expected arrays x and t, batches (x, t) in a list, a data loader or a "
            "generator, a function that returns one of these, or a data set with numbered examples"
        )
    if isinstance(x, (str, bytes)):
        raise TypeError(f"{op}: got the text {x!r:.60}; expected arrays, or something that yields batches")


def _is_nested_numbers(x: Any) -> bool:
    inside = x
    while isinstance(inside, list) and inside:
        inside = inside[0]
    return inside is not x and isinstance(inside, (int, float))


def _parts(given: Any, what: str, targets: bool = True) -> Batch:
    """x, t and w of an example or a batch: a tuple, a list, or a dictionary with well-known keys."""
    x, t, w = _taken_apart(given, what, targets)
    for name, part in (("x", x), ("t", t)):
        if part is None and (name == "x" or targets):
            raise TypeError(f"{name} of {what} is None; expected numbers")
        if isinstance(part, Mapping):
            raise TypeError(
                f"{name} of {what} is a dictionary; networks with several inputs or outputs take all data at once, as "
                "dictionaries of arrays"
            )
    return x, t, w


def _taken_apart(given: Any, what: str, targets: bool) -> Batch:
    if isinstance(given, Mapping):
        return tuple(_under(given, role, targets) for role in KEYS)
    if not targets:
        return (given[0] if isinstance(given, (tuple, list)) and given else given), None, None
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
        got = f"a {type(given).__name__}" + (f" of {len(given)}" if isinstance(given, (tuple, list)) else "")
        raise TypeError(f"{what} must be (x, t), (x, t, weights) or a dictionary; got {got}")
    return (*given, None)[:3]


def _under(given: Mapping[str, Any], role: str, targets: bool) -> Any:
    found = [key for key in KEYS[role] if key in given]
    if len(found) == 1:
        return given[found[0]] if role == "x" or targets else None
    if role == "w" or (role == "t" and not targets):
        return None
    known = ", ".join(map(repr, KEYS[role]))
    raise ValueError(
        f"expected one of the keys {known} for {role}; this dictionary has {', '.join(map(repr, given))}. Rename one, "
        "or return pairs (x, t)."
    )


def _check_channels(op: str, net: Layer, shape: tuple[int, ...]) -> None:
    """Raise if the channels come first, as in PyTorch, but the network was not initialised for that."""
    if len(shape) != 4 or shape[1] not in (1, 3) or not shape[2] == shape[3] > 4:
        return
    if net.input_shape is None or tuple(net.input_shape) == (*shape[2:], shape[1]):
        raise ValueError(
            f"{op}: x has shape {shape}, with the channels first; here they come last, (N, H, W, C): "
            "x.permute(0, 2, 3, 1). In a data set of PyTorch, add transforms.Lambda(lambda x: x.permute(1, 2, 0)) "
            "after ToTensor(). With a loader, pass lambda: ((x.permute(0, 2, 3, 1), t) for x, t in loader)."
        )


# -- conversion to arrays ----------------------------------------------------------------------------------------------


def _as_array(a: Any) -> Any:
    """An array as it is, if it may be on a device; anything else as an array on the host."""
    if backend_of(a) is not None:
        return a
    place = a.__dlpack_device__() if hasattr(a, "__dlpack_device__") else (1, 0)
    return _on_host(a) if place[0] == 1 else asarray(a)


def _on_host(a: Any) -> numpy.ndarray:
    if hasattr(a, "getbands"):
        return _of_picture(a)
    return to_numpy(a if backend_of(a) is not None else asarray(a, backend="numpy"))


def _of_picture(image: Any) -> numpy.ndarray:
    """A Pillow image as bytes (H, W, 3) or (H, W, 1)."""
    if image.mode not in ("RGB", "L"):
        raise ValueError(
            f'the image has mode {image.mode!r}; convert it to colour or grey: image.convert("RGB"), or "L"'
        )
    pixels = numpy.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _there(net: Layer, x: Any, t: Any, w: Any, augment: Augment | None, moves: Any) -> Batch:
    """The batch on the network's backend, with its images moved and normalised."""
    there = home(net)
    if augment is not None:
        t = mixed_targets(net, t, augment, moves, tuple(x.shape[1:]))
        x = augment.batch(x, numpy.arange(len(x)), moves, dtype=net.dtype)
    copied: list[Array | None] = [None if a is None else asarray(a, backend=there) for a in (x, t, w)]
    return copied[0], copied[1], copied[2]


def _length(given: Any) -> int | None:
    try:
        return len(given)
    except TypeError:
        return None
