"""Several machines on this one, for tests: each is a network namespace, and their network can delay, lose and break.

Linux, root, ``ip`` and ``/dev/net/tun`` are needed; ``why_not()`` says what is missing. A machine's device hands its
packets to a thread of this process, which carries them to the others: later, slower, or not at all. So TCP in the
kernel sees a real loss, and sends again. Nothing leaves the namespaces, and all of them go at the end.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from typing import Any

TUNSETIFF, TUN, BARE = 0x400454CA, 0x0001, 0x1000
"""A device whose packets a program reads and writes (linux/if_tun.h), without a header of its own."""
NET = "10.77.0."


def why_not() -> str:
    """Why no machines can be made here; empty if they can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if shutil.which("ip") is None:
        return "ip (iproute2) is not installed"
    name = f"dualnet-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.strip()}"
    ip("netns", "del", name)
    try:
        os.close(_device("dntry")[0])
    except OSError as error:
        return f"no network device can be made: {error}"
    return ""


class Machines:
    """``with Machines(4, delay=0.005, loss=0.01) as machines``: seconds each way, and the share of packets lost.

    ``rate`` is the number of bytes per second that leave a machine. Machine k has the address ``address(k)``.
    """

    def __init__(self, count: int, *, delay: float = 0.0, loss: float = 0.0, rate: float = 0.0) -> None:
        self.count, self.delay, self.loss, self.rate = count, delay, loss, rate
        self.names = [f"dualnet-{os.getpid()}-{k}" for k in range(count)]
        self.devices: list[str] = []
        self.wires: list[int] = []
        self.held_until = 0.0
        self.carried = self.lost = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> Machines:
        try:
            for k, name in enumerate(self.names):
                ip("netns", "add", name)
                wire, device = _device(f"dn{os.getpid() % 10**6}-{k}")
                self.wires.append(wire)
                self.devices.append(device)
                ip("link", "set", device, "netns", name)
                ip("-n", name, "addr", "add", f"{self.address(k)}/24", "dev", device)
                for one in ("lo", device):
                    ip("-n", name, "link", "set", one, "up")
        except BaseException:
            self._clear()
            raise
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self.thread.join()
        self._clear()

    def _clear(self) -> None:
        for name in self.names:
            inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
            for process in inside.split():
                os.kill(int(process), 9)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        for wire in self.wires:
            os.close(wire)

    def address(self, machine: int) -> str:
        """Where the others reach it."""
        return f"{NET}{machine + 1}"

    def start(self, machine: int, command: list[str], **options: Any) -> subprocess.Popen:
        """A process on this machine."""
        return subprocess.Popen(["ip", "netns", "exec", self.names[machine], *command], **options)

    def cut(self, machine: int) -> None:
        """Pull its cable."""
        ip("-n", self.names[machine], "link", "set", self.devices[machine], "down")

    def hold(self, seconds: float) -> None:
        """For so long nothing arrives anywhere."""
        self.held_until = time.monotonic() + seconds

    def _carry(self) -> None:
        """The network: read each packet, and write it to whom it is for, when it is due."""
        chance, number = random.Random(0), itertools.count()
        due: list[tuple[float, int, int, bytes]] = []
        free = [0.0] * self.count  # when each machine's wire can take the next packet
        while not self.stopped.is_set():
            now = time.monotonic()
            while due and max(due[0][0], self.held_until) <= now:
                _, _, to, packet = heapq.heappop(due)
                _write(self.wires[to], packet)
            wait = 0.05 if not due else min(0.05, max(0.0, max(due[0][0], self.held_until) - now))
            for wire in select.select(self.wires, [], [], wait)[0]:
                source = self.wires.index(wire)
                while packet := _read(wire):
                    to = packet[19] - 1 if packet[0] >> 4 == 4 and len(packet) >= 20 else -1  # IPv4: the last byte
                    if not 0 <= to < self.count:
                        continue
                    self.carried += 1
                    if chance.random() < self.loss:
                        self.lost += 1
                        continue
                    at = max(time.monotonic(), free[source])
                    free[source] = at = at + (len(packet) / self.rate if self.rate else 0.0)
                    heapq.heappush(due, (at + self.delay, next(number), to, packet))


def ip(*words: str) -> None:
    """A command of iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


def _device(name: str) -> tuple[int, str]:
    wire = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        made = fcntl.ioctl(wire, TUNSETIFF, struct.pack("16sH22x", name.encode(), TUN | BARE))
    except OSError:
        os.close(wire)
        raise
    return wire, made[:16].rstrip(b"\0").decode()


def _read(wire: int) -> bytes:
    try:
        return os.read(wire, 2**16)
    except OSError:  # nothing there, or its machine has no cable
        return b""


def _write(wire: int, packet: bytes) -> None:
    try:
        os.write(wire, packet)
    except OSError:
        pass
