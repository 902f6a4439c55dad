"""Launches and bytes of a training step on a GPU, counted on the pretend device: nothing is computed, nothing is timed.

    python tests/pretend/counting.py resnet18 --dtype bfloat16 --batch 256

Each array that a launch is given counts once, as read or as written, whatever the caches of a real device do; what a
kernel adds to in place counts twice. cuDNN's own launches inside a plan, and its workspace, are not seen.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pytest

sys.path += [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import fake_cudnn
import fake_cupy

import dualnet as dn
from dualnet.backends.gpu import cublas, cudnn_plans, launch, maps, registry
from dualnet.layers.parameter import cast_all

FREE = set("astype reshape permute_dims empty ascontiguousarray __getitem__ T mT squeeze broadcast_to".split())
"""Functions of CuPy that launch nothing: views, memory, and copies of what is contiguous already."""
IN_PLACE = {"add_bias"}


@dataclass
class Count:
    """What one step launches, by the name of the kernel, of the cuDNN plan, or of CuPy's function."""

    launches: Counter = field(default_factory=Counter)
    read: Counter = field(default_factory=Counter)
    written: Counter = field(default_factory=Counter)

    def note(self, name: str, read: int = 0, written: int = 0) -> None:
        self.launches[name] += 1
        self.read[name] += read
        self.written[name] += written

    @property
    def bytes(self) -> int:
        return sum(self.read.values()) + sum(self.written.values())

    def lines(self) -> Iterator[str]:
        """A table, the largest first."""
        moved = {name: self.read[name] + self.written[name] for name in self.launches}
        for name in sorted(moved, key=lambda name: (-moved[name], name)):
            yield f"{name:32s} {self.launches[name]:6d} launches {moved[name] / 1e6:10.1f} MB"
        yield f"{'all':32s} {sum(self.launches.values()):6d} launches {self.bytes / 1e6:10.1f} MB"


def counted(step: Callable[[], Any]) -> Count:
    """What a step launches on the pretend device, where none of its kernels runs: results are not numbers."""
    count = Count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_function", functools.partial(_noting, count))
        patch.setattr(cudnn_plans.Plan, "__call__", functools.partialmethod(_plan, count))
        for module in (cublas, maps):
            patch.setattr(module, "product", functools.partial(_product, count))
        array, astype = _cupy().ndarray, _cupy().ndarray.astype
        patch.setattr(array, "astype", lambda a, dtype, **options: _converted(count, astype, a, dtype, **options))
        called = _cupy().now.called
        before = Counter(called)
        step()
        for name, times in (called - before).items():
            if name not in FREE:
                count.launches[f"CuPy's {name}"] += times
    return count


def _converted(count: Count, astype: Any, a: Any, dtype: Any, **options: Any) -> Any:
    made = astype(a, dtype, **options)
    if made.dtype != a.dtype or options.get("copy", True):
        count.note("CuPy's conversion", a.nbytes, made.nbytes)
    return made


def _cupy() -> Any:
    return sys.modules["cupy"]


def _noting(count: Count, xp: Any, kernel: registry.Kernel, real: str, *types: Any) -> Callable[..., None]:
    def function(grid: tuple, block: tuple, arguments: tuple) -> None:
        read = written = 0
        for kind, value in zip(kernel.types, arguments, strict=True):
            if kind.endswith("*") and hasattr(value, "nbytes") and hasattr(value, "shape") and value.shape != ():
                if kind.startswith("const"):
                    read += value.nbytes
                else:
                    written += value.nbytes
                    read += value.nbytes if kernel.name in IN_PLACE else 0
            elif (table := _structures(real).get(kind)) is not None and table.names == ("at",):
                wide = real if kernel.name == "turn_gradients" else registry.WIDE[real]
                more = _table(value.view(table), numpy.dtype(real).itemsize, numpy.dtype(wide).itemsize)
                read, written = read + more[0], written + more[1]
        count.note(kernel.name, read, written)

    return function


def _structures(real: str) -> dict[str, numpy.dtype]:
    """The dtypes of the structures that travel as plain bytes."""
    return {**registry.STRUCTURES, "Turns": registry.TURNS, "Followed": registry.followed(registry.WIDE[real])}


def _table(table: numpy.ndarray, narrow: int, wide: int) -> tuple[int, int]:
    """Bytes read and written of the arrays in a list of pointers: addresses, then how many elements each has."""
    read = written = 0
    for row in table["at"]:
        sizes = [int(row[n]) for n in ("size", "C", "rows", "columns") if n in row.dtype.names]
        size = math.prod(sizes)
        for name in row.dtype.names:
            if row.dtype[name] != numpy.dtype("u8") or not row[name]:
                continue
            itemsize = narrow if name in ("shadow", "g", "to") else wide
            if name in ("w", "a", "b", "shadow", "to") or name.startswith("new"):
                written += size * itemsize
            else:
                read += size * itemsize
    return read, written


def _plan(plan: Any, count: Count, xp: Any, *arrays: Any) -> None:
    *inputs, output = (int(a.nbytes) for a in arrays)
    count.note(f"cuDNN {plan.shape.way}", sum(inputs), output)


def _product(count: Count, a: Any, b: Any, out: Any = None, add: bool = False) -> Any:
    y = _cupy().empty((a.shape[0], b.shape[1]), dtype=a.dtype) if out is None else out
    count.note("cuBLAS product", a.nbytes + b.nbytes + (y.nbytes if add else 0), y.nbytes)
    return y


# -- a network's step --------------------------------------------------------------------------------------------------


@contextmanager
def pretend() -> Iterator[None]:
    """A machine with one pretend GPU and a pretend cuDNN that serves all convolutions and times none."""
    with pytest.MonkeyPatch.context() as patch, fake_cupy.in_force(patch) as cupy:
        patch.setattr(fake_cupy, "fenced", lambda shape, dtype: numpy.zeros(shape, dtype))
        fake_cudnn.install(patch, cupy)
        patch.setenv("DUALNET_CUDNN", "all")
        patch.setenv("DUALNET_CUDNN_AUTOTUNE", "0")
        yield


def training_step(net: dn.Layer, shape: tuple[int, ...], batch: int, dtype: str) -> Callable[[], Any]:
    """SGD with momentum on one batch of nothing in particular. The first step makes what later steps keep."""
    net.init(shape, dtype=dtype)
    x = dn.asarray(numpy.zeros((batch, *shape), "float32")).astype(net.dtype)
    t, optimizer = dn.asarray(numpy.zeros(batch, "int64")), dn.SGD(lr=0.1, momentum=0.9)

    def step() -> None:
        cast_all(net.parameters().values(), net.dtype)  # as fit does
        y, pullback = net.forward(x, train=True)
        _, dloss = dn.losses.softmax_cross_entropy(y, t, check_labels=False)
        optimizer.step(net, pullback(dloss())[1])

    return step


def of_network(name: str, batch: int, dtype: str) -> Count:
    """What the second training step of a network in ``dualnet.models`` launches."""
    with pretend():
        step = training_step(getattr(dn.models, name)(), dn.models.INPUT_SHAPES[name], batch, dtype)
        counted(step)
        return counted(step)


def main() -> int:
    parser = argparse.ArgumentParser(prog="counting.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("nets", nargs="+", metavar="NET", help=f"of {', '.join(dn.models.INPUT_SHAPES)}")
    parser.add_argument("--dtype", default="bfloat16", help="float32, bfloat16, float16 (bfloat16)")
    parser.add_argument("--batch", type=int, default=256, metavar="N", help="images in a batch (256)")
    options = parser.parse_args()
    for net in options.nets:
        print(f"{net}, {options.dtype}, batch {options.batch}: counted, not timed")
        print("\n".join(f"  {line}" for line in of_network(net, options.batch, options.dtype).lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
