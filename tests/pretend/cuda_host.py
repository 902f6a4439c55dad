"""CUDA kernels without a GPU: compiled by g++, with cuda_on_host.h before them, and run; or only compiled, by NVRTC.

:class:`RawModule` stands in for CuPy's class of that name: it runs a kernel with the same grid, block and arguments. It
is stricter: each argument must have exactly the type that the kernel declares, where CuPy would pass any bytes.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dualnet.backends.gpu import launch, registry, sources

HEADER = Path(__file__).parent / "cuda_on_host.h"
COMPILER = shutil.which("g++")
FOLDER = Path(tempfile.gettempdir()) / f"dualnet-cuda-on-host-{os.getuid() if hasattr(os, 'getuid') else 0}"
HALVES = {"float16", "bfloat16"}

order = {"backwards": False}
"""Run blocks and threads from last to first: no result may depend on their order."""
launches: list[str] = []
"""The kernels that were launched, in order."""


# -- g++ ---------------------------------------------------------------------------------------------------------------


@functools.cache
def library(file: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """A kernel file as a library of the host; kept for the next run under a hash of everything that it is made from."""
    entries = [k.name for k in registry.KERNELS.values() if k.file == file]
    text = "\n".join([sources.source(file), *(f"DESCRIBE({name})" for name in entries)])
    flags = ["-fPIC", "-shared", "-include", str(header()), *options]
    return ctypes.CDLL(str(built(text, "kernels.cpp", flags, ".so")))


def compile_together(*files: str) -> None:
    """Compile files side by side, in the types that most tests need, before the tests need them one by one."""
    if COMPILER is None:
        return
    first = [next(k for k in registry.KERNELS.values() if k.file == file) for file in files]
    wanted = [(k.file, launch.defines(k, real)) for k in first for real in ("float32", "float64")]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: library(*job), wanted))


@functools.cache
def header() -> Path:
    """The header, compiled once for all files."""
    precompiled = built(HEADER.read_text(encoding="utf-8"), "cuda_on_host.h", ["-fPIC"], ".h.gch")
    written = precompiled.with_suffix("")
    written.write_text("#error the precompiled header was not used\n", encoding="utf-8")
    return written


def built(text: str, name: str, flags: list[str], suffix: str) -> Path:
    """What g++ makes from a text; from an earlier run if nothing has changed."""
    # otherwise the libraries of a process share the static arrays of inline functions, whose size depends on the dtype
    command = [COMPILER, "-std=c++17", "-O0", "-w", "-fno-gnu-unique", *flags]
    made = FOLDER / (hashlib.sha256("\0".join([text, *command]).encode()).hexdigest() + suffix)
    if not made.exists():
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        assert not hasattr(os, "getuid") or FOLDER.stat().st_uid == os.getuid(), f"{FOLDER} is somebody else's"
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            source, out = Path(folder, name), Path(folder, "out")
            source.write_text(text, encoding="utf-8")
            done = subprocess.run([*command, str(source), "-o", str(out)], capture_output=True, text=True)
            assert done.returncode == 0, f"{' '.join(flags)}:\n{done.stderr[:4000]}"
            out.replace(made)
    return made


class RawModule:
    """Like ``cupy.RawModule``, on the host."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        self.options = options
        (self.file,) = (file for file in registry.FILES if sources.source(file) == code)

    def get_function(self, name: str) -> Function:
        return Function(registry.KERNELS[name], library(self.file, self.options))


class Function:
    """A kernel, called with grid, block and arguments."""

    def __init__(self, kernel: registry.Kernel, library: ctypes.CDLL) -> None:
        self.kernel, self.together = kernel, kernel.name in cooperative(kernel.file)
        self.run = getattr(library, f"run_{kernel.name}")
        types = getattr(library, f"types_{kernel.name}")
        types.restype = ctypes.c_char_p
        self.types = types().decode().split()

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple) -> None:
        check_geometry(grid, block)
        assert len(arguments) == len(self.types), f"{self.kernel.name}: {len(arguments)} arguments"
        values = [value(self.kernel.name, kind, a) for kind, a in zip(self.types, arguments)]
        pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        shape = [(ctypes.c_uint * 3)(*(*extent, 1, 1)[:3]) for extent in (grid, block)]
        launches.append(self.kernel.name)
        stuck = self.run(pointers, *shape, self.together, order["backwards"])
        assert not stuck, f"{self.kernel.name}: threads wait for each other in vain"


@functools.cache
def cooperative(file: str) -> frozenset[str]:
    """The functions of a file whose threads wait for each other or exchange values, here or in a function they call.

    Each thread of such a kernel runs as a fiber; the threads of others run one after another, which is faster.
    """
    bodies = dict(
        re.findall(r"^\w[^\n]*?\b(\w+)\([^;{]*\{\n(.*?)^\}", sources.source(file), flags=re.MULTILINE | re.DOTALL)
    )
    found: set[str] = set()
    calls = r"\b(?:__syncthreads|__shfl_xor_sync)\("
    while more := {name for name, body in bodies.items() if re.search(calls, body)} - found:
        found |= more
        calls = rf"\b(?:__syncthreads|__shfl_xor_sync|{'|'.join(sorted(found))})\("
    return frozenset(found)


def check_geometry(grid: tuple[int, ...], block: tuple[int, ...]) -> None:
    """The limits of today's devices."""
    x, y, z = (*grid, 1, 1)[:3]
    assert all(isinstance(n, int) for n in (*grid, *block)), f"grid {grid}, block {block}"
    assert 1 <= x < 2**31 and 1 <= y < 2**16 and 1 <= z < 2**16, f"grid {grid}"
    assert 1 <= np.prod(block) <= 1024, f"block {block}"


def value(name: str, kind: str, argument: object) -> np.ndarray:
    """The bytes of one argument, after a check that it has the type that the kernel declares."""
    if kind.startswith("*"):
        if isinstance(argument, np.uint64) and argument == 0:
            return np.array(0, np.uint64)
        held = argument if isinstance(argument, np.ndarray) else argument._held
        assert held.flags.c_contiguous, f"{name}: an array of shape {held.shape} is not contiguous"
        check_pointer(name, kind[1:], held)
        return np.array(held.ctypes.data, np.uint64)
    if kind.startswith("struct"):
        assert isinstance(argument, np.ndarray) and argument.ndim == 0, f"{name}: {argument!r} for a structure"
        assert argument.dtype.itemsize == int(kind[6:]), f"{name}: {argument.dtype} for {kind}"
        assert argument.dtype.names is None, f"{name}: with fields, CuPy takes up to 51 µs to pass {kind}"
        return argument
    assert isinstance(argument, np.generic) and argument.dtype == kind, f"{name}: {argument!r} for {kind}"
    return np.asarray(argument)


def check_pointer(name: str, kind: str, held: np.ndarray) -> None:
    """Does an array hold elements of the type that a pointer points to, and whole packs of them?"""
    dtype = "uint8" if held.dtype == bool else held.dtype.name
    if kind.startswith("struct"):  # a pack, or a 16-bit float
        size = int(kind[6:])
        assert (held.dtype.kind in "fbui" or held.dtype.name in HALVES) and size % held.itemsize == 0, (
            f"{name}: {dtype} for packs of {size} bytes"
        )
        assert held.size * held.itemsize % size == 0 and held.ctypes.data % size == 0, f"{name}: packs do not fit"
    else:
        assert dtype == kind, f"{name}: {dtype} for {kind}"


# -- NVRTC -------------------------------------------------------------------------------------------------------------


@functools.cache
def nvrtc() -> ctypes.CDLL | None:
    """NVIDIA's compiler, from its own wheel, beside CuPy, or from the system."""
    found = []
    try:
        import nvidia

        found = [str(path) for root in nvidia.__path__ for path in sorted(Path(root).rglob("libnvrtc.so.1*"))]
    except ImportError:
        pass
    for path in [*found, "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]:
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    return None


@functools.cache
def architectures() -> frozenset[str]:
    """The generations of GPUs that NVRTC compiles for, such as ``sm_90``."""
    lib, count = nvrtc(), ctypes.c_int()
    lib.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    known = (ctypes.c_int * count.value)()
    lib.nvrtcGetSupportedArchs(known)
    return frozenset(f"sm_{number}" for number in known)


def compile_for(arch: str, file: str, options: tuple[str, ...]) -> bytes:
    """A kernel file as machine code for one generation of GPUs, such as ``sm_90``."""
    lib, program = nvrtc(), ctypes.c_void_p()
    text = sources.source(file).encode()
    assert lib.nvrtcCreateProgram(ctypes.byref(program), text, file.encode(), 0, None, None) == 0
    given = [f"-arch={arch}", "--device-as-default-execution-space", "-ftz=true", *options]  # as CuPy does
    failed = lib.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*(o.encode() for o in given)))
    size = ctypes.c_size_t()
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    assert not failed, f"{file} {options}:\n{log.value.decode()}"
    lib.nvrtcGetCUBINSize(program, ctypes.byref(size))
    code = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetCUBIN(program, code)
    lib.nvrtcDestroyProgram(ctypes.byref(program))
    return code.raw


REGISTERS, STACK = 0x2F, 0x11
"""What the machine code notes of each kernel."""


def noted(code: bytes, what: int) -> dict[str, int]:
    """How many registers, or how many bytes beside them, a thread of each kernel needs: the code is an ELF file."""
    start, count, names = (*struct.unpack_from("<Q", code, 0x28), *struct.unpack_from("<HH", code, 0x3C))
    sections = [struct.unpack_from("<IIQQQQIIQQ", code, start + 64 * i) for i in range(count)]  # 4: offset, 5: size

    def text(table: int, at: int) -> str:
        return code[sections[table][4] + at : code.index(b"\0", sections[table][4] + at)].decode()

    by_name = {text(names, section[0]): section for section in sections}
    info, symbols = by_name[".nv.info"], by_name[".symtab"]
    found, at = {}, info[4]
    while at < info[4] + info[5]:
        form, attribute, size = struct.unpack_from("<BBH", code, at)
        if (form, attribute) == (4, what):  # a kernel's symbol, and a number
            symbol, used = struct.unpack_from("<II", code, at + 4)
            found[text(symbols[6], *struct.unpack_from("<I", code, symbols[4] + 24 * symbol))] = used
        at += 4 + (size if form == 4 else 0)
    return found
