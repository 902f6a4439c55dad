"""Send arrays from one GPU to the GPUs of other processes, by NCCL through CuPy.

NCCL only moves bytes here: sums are taken by the caller, in the order of the ranks, since NCCL's own order depends on
how the machines are wired. Everything runs on a stream of its own, so that it may overlap with a backward pass. The
caller asks a request whether it is done, and never waits for it: a rank that has died would never answer.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

import numpy


class Moved:
    """A transfer under way. It holds on to both arrays until it is done."""

    def __init__(self, event: Any, sent: Any, got: Any) -> None:
        self.event, self.sent, self.got = event, sent, got

    def test(self) -> bool:
        return bool(self.event.done)

    def value(self) -> Any:
        return self.got


class Peers:
    """The other processes, each with a GPU. ``join`` comes first, on all of them at once."""

    def __init__(self, cupy: Any, device: Any) -> None:
        self.cupy, self.device = cupy, device
        try:
            self.nccl = importlib.import_module("cupy.cuda.nccl")
            self.uint8 = self.nccl.NCCL_UINT8
        except (ImportError, AttributeError) as error:
            raise ImportError(
                "CuPy finds no NCCL: pip install nvidia-nccl-cu12, or nvidia-nccl-cu13 beside cupy-cuda13x; "
                "dn.distributed.init('mpi') copies through the host instead",
                name="cupy.cuda.nccl",
            ) from error
        with device:
            self.stream = cupy.cuda.Stream(non_blocking=True)
        self.size, self.rank, self.wires = 1, 0, None

    def unique_id(self) -> bytes:
        """What rank 0 sends to the others, over another channel, before all of them join."""
        return json.dumps([int(number) for number in self.nccl.get_unique_id()]).encode()

    def join(self, size: int, unique_id: bytes, rank: int) -> None:
        """Connect with the others."""
        with self.device:
            self.wires = self.nccl.NcclCommunicator(size, tuple(json.loads(unique_id)), rank)
        self.size, self.rank = size, rank

    def gather(self, flat: Any) -> Moved:
        """(n,) -> (size, n)."""
        got = self._empty((self.size, flat.size), flat.dtype)
        return self._move(flat, got, lambda wires, stream: wires.allGather(*self._all(flat, got), stream))

    def trade(self, pieces: Any) -> Moved:
        """(size, n) -> (size, n): piece r goes to rank r."""
        got = self._empty(pieces.shape, pieces.dtype)
        row = pieces.nbytes // self.size

        def move(wires: Any, stream: int) -> None:
            self.nccl.groupStart()
            for peer in range(self.size):
                wires.send(pieces.data.ptr + peer * row, row, self.uint8, peer, stream)
                wires.recv(got.data.ptr + peer * row, row, self.uint8, peer, stream)
            self.nccl.groupEnd()

        return self._move(pieces, got, move)

    def spread(self, flat: Any, root: int) -> Moved:
        """(n,) -> (n,), that of ``root``."""
        got = self._empty(flat.shape, flat.dtype)
        return self._move(flat, got, lambda wires, stream: wires.broadcast(*self._all(flat, got), root, stream))

    def abort(self) -> None:
        """Abort transfers that wait for a rank that will not come."""
        if self.wires is not None:
            self.wires.abort()

    def _all(self, sent: Any, got: Any) -> tuple[int, int, int, int]:
        return sent.data.ptr, got.data.ptr, sent.nbytes, self.uint8

    def _empty(self, shape: tuple[int, ...], dtype: numpy.dtype) -> Any:
        with self.device:
            return self.cupy.empty(shape, dtype=dtype)

    def _move(self, sent: Any, got: Any, move: Any) -> Moved:
        with self.device:
            ready, done = (self.cupy.cuda.Event(disable_timing=True) for _ in range(2))
            ready.record(self.cupy.cuda.get_current_stream())
            self.stream.wait_event(ready)  # what is sent was computed on the current stream
            move(self.wires, self.stream.ptr)
            done.record(self.stream)
        return Moved(done, sent, got)
