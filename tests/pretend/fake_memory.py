"""The memory of the pretend device and CuPy's pools over it, as far as dualnet depends on them.

A pool takes blocks from the device, and keeps freed memory in them for other arrays; several arrays may share a block.
Only ``free_all_blocks`` gives back blocks, those without arrays. As in CuPy from 14.1 on, a pool that is only dropped
never gives back its blocks. If the device has no room, a pool frees what it can and tries again. In CuPy each stream
has a part of the pool to itself; here all streams share it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

UNIT = 512


class OutOfRoom(Exception):
    """CUDA's cudaErrorMemoryAllocation."""


class DeviceMemory:
    """How much memory the device has, and what holds it."""

    def __init__(self) -> None:
        self.room, self.taken = 2**40, 0
        self.blocks: list[Block] = []  # of all pools, dropped ones included
        self.default = Pool(self)
        self.allocators: list[Callable[[int], Any]] = [self.default.malloc]  # the last one is current
        self.replays = False  # a launched graph allocates nothing; the pretend one makes arrays meanwhile

    def cuda(self) -> dict[str, Any]:
        """The part of ``cupy.cuda`` that it stands for."""

        @contextmanager
        def using_allocator(allocator: Callable[[int], Any]) -> Iterator[None]:
            self.allocators.append(allocator)
            try:
                yield
            finally:
                self.allocators.pop()

        return {
            "Memory": partial(Memory, self),
            "MemoryPointer": MemoryPointer,
            "MemoryPool": partial(Pool, self),
            "using_allocator": using_allocator,
        }

    def born(self, array: Any) -> None:
        """Give a new array memory from the current allocator, for as long as the array lives."""
        if array.nbytes and not self.replays:
            weakref.finalize(array, self.allocators[-1](array.nbytes).free)

    def beside_the_default_pool(self) -> int:
        """Bytes that all other pools hold."""
        return self.taken - self.default.total_bytes()


class Memory:
    """Memory of the device, held as long as this object lives."""

    size = 0

    def __init__(self, device: DeviceMemory, size: int) -> None:
        self.device = device
        if device.taken + size > device.room:
            raise OutOfRoom
        self.size = size
        device.taken += size

    def __del__(self) -> None:
        self.device.taken -= self.size


class MemoryPointer:
    def __init__(self, mem: Any, offset: int) -> None:
        assert offset == 0
        self.mem = mem


class Block:
    """Memory that a pool has taken, and how much of it arrays use."""

    def __init__(self, mem: Memory) -> None:
        self.mem, self.size, self.used = mem, mem.size, 0


class Piece:
    """An array's part of a block."""

    def __init__(self, block: Block, size: int) -> None:
        self.block, self.size = block, size
        block.used += size

    def free(self) -> None:
        self.block.used -= self.size


class Pool:
    """``cupy.cuda.MemoryPool``."""

    def __init__(self, device: DeviceMemory, allocator: Callable[[int], Any] | None = None) -> None:
        self.device, self.blocks = device, []
        self.allocator = allocator or (lambda size: MemoryPointer(Memory(device, size), 0))

    def malloc(self, size: int) -> Piece:
        size = -(-size // UNIT) * UNIT
        fitting = [block for block in self.blocks if block.size - block.used >= size]
        return Piece(min(fitting, key=lambda block: block.size - block.used) if fitting else self._new(size), size)

    def _new(self, size: int) -> Block:
        try:
            block = Block(self.allocator(size).mem)
        except OutOfRoom:
            self.free_all_blocks()
            try:
                block = Block(self.allocator(size).mem)
            except OutOfRoom:
                raise MemoryError(f"Out of memory allocating {size:,} bytes") from None
        self.blocks.append(block)
        self.device.blocks.append(block)
        return block

    def free_all_blocks(self) -> None:
        for block in [block for block in self.blocks if not block.used]:
            self.blocks.remove(block)
            self.device.blocks.remove(block)

    def total_bytes(self) -> int:
        return sum(block.size for block in self.blocks)

    def used_bytes(self) -> int:
        return sum(block.used for block in self.blocks)
