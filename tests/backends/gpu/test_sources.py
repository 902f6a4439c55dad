"""The text of the CUDA kernels: signatures as a compiler sees them, clear errors, and what NVRTC makes of each file."""

from __future__ import annotations

import re
import subprocess
import sys

import cuda_host
import numpy as np
import pytest

from dualnet.backends.gpu import launch, registry, sources

needs_compiler = pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")
needs_nvrtc = pytest.mark.skipif(cuda_host.nvrtc() is None, reason="NVRTC is not installed")


def kernels_of(file):
    return [kernel for kernel in registry.KERNELS.values() if kernel.file == file]


# -- signatures --------------------------------------------------------------------------------------------------------

STRUCTURES = {**registry.STRUCTURES, "Turns": registry.TURNS, "Rule": registry.rule("float32"),
              "Followed": registry.followed("float32")}  # fmt: skip
DESCRIBED = {
    "int": "int32", "unsigned int": "uint32", "long long": "int64", "unsigned long long": "uint64",
    "signed char": "int8", "unsigned char": "uint8", "pixel": "uint8", "real": "float32", "wide": "float32",
    "Pack": "struct4", "Taps": "struct1", "Flags": "struct1",
    **{name: f"struct{dtype.itemsize}" for name, dtype in STRUCTURES.items()},
}  # fmt: skip
"""What the compiler says of a type, in float32 and packs of one number."""


def misread(file):
    """Kernels whose arguments were read otherwise than the compiler sees them."""
    (first, *_) = kernels_of(file)
    library = cuda_host.library(file, launch.defines(first, "float32"))
    wrong = {}
    for name, types in sources.entries(file).items():
        read = ["*" * kind.endswith("*") + DESCRIBED[kind.removeprefix("const ").rstrip("*")] for kind in types]
        seen = cuda_host.Function(registry.KERNELS[name], library).types
        if read != seen:
            wrong[name] = read, seen
    return wrong


@needs_compiler
@pytest.mark.parametrize("file", registry.FILES)
def test_signatures_are_read_as_the_compiler_sees_them(file):
    assert misread(file) == {}


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Pack* columns, const Pack* x, int count", "Pack* columns, int count, const Pack* x"),
        ("int count, Windows at", "Windows at"),
        ("int count, Windows at", "unsigned int count, Windows at"),
        ("int count, Windows at", "int count, Divisor at"),
    ],
)
def test_a_wrong_signature_would_be_seen(planted, old, new):
    """The library is that of the true text: what is read from the other one does not fit it."""
    library = cuda_host.library("columns.cu", launch.defines(registry.KERNELS["im2col"], "float32"))
    planted("columns.cu", old, new)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_host, "library", lambda *_: library)
        assert misread("columns.cu").keys() == {"im2col"}


def test_comments_and_line_breaks_do_not_matter(planted):
    before = sources.entries("columns.cu")
    planted("columns.cu", "int count, Windows at) {", "int count,  // packs, of course\n    Windows\tat)\n{")
    planted("columns.cu", "ENTRY im2col(", "// ENTRY other(int i) {\n/* and */ // this\nENTRY im2col(\n")
    assert sources.entries("columns.cu") == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("const Pack* x", "const Pack *x", r"im2col: expected an argument such as .*, got 'const Pack \*x'"),
        ("int count", "int", r"im2col: expected an argument such as 'const real\* x' or 'int count', got 'int'"),
        ("Pack* columns, const Pack* x, int count, Windows at", "", r"im2col: expected an argument .*, got ''"),
        ("int count", "float count", r"im2col: 'float count' is passed by value, which works for Divisor, .*, wide; "),
        ("Windows at) {", "Windows at);", r"expected ENTRY name\(type name, ...\) {, got 'ENTRY im2col\(Pack\*"),
        ("Windows at) {", "int (*f)(int)) {", r"expected ENTRY name\(type name, ...\) {, got 'ENTRY im2col\(Pack\*"),
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_read_is_named_with_its_line(planted, old, new, message):
    planted("columns.cu", old, new)
    with pytest.raises(ValueError, match=rf"^columns.cu, line 5: {message}"):
        sources.entries("columns.cu")


def test_a_file_without_the_header_is_named(planted):
    planted("columns.cu", '#include "common.h"\n', "")
    with pytest.raises(ValueError, match='^columns.cu has no line #include "common.h"$'):
        sources.source("columns.cu")


def test_nothing_is_read_before_a_kernel_is_needed():
    """Neither by the package nor by the CuPy backend; then one file, and the header that it includes."""
    code = """
import sys
opened = []
def hook(event, args):
    if event == "open" and str(args[0]).endswith((".cu", ".h")):
        opened.append(args[0])
sys.addaudithook(hook)
import dualnet
from dualnet.backends import cupy_backend
from dualnet.backends.gpu import registry
assert opened == [], opened
assert registry.KERNELS["im2col"].types[2] == "int"
names = {str(path).replace("\\\\", "/").rpartition("/")[2] for path in opened}
assert names == {"columns.cu", "common.h"}, names
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- what a kernel may do ----------------------------------------------------------------------------------------------


def test_no_kernel_uses_atomics_or_waits_for_the_host():
    for file in (*registry.FILES, "common.h"):
        text = re.sub(r"//.*", "", (sources.FOLDER / file).read_text(encoding="utf-8"))
        assert not re.search(r"atomic|printf|assert|cudaDevice|malloc", text), file


# -- NVRTC -------------------------------------------------------------------------------------------------------------

COMBINATIONS = {
    "sm_75": [("bfloat16", 8)],
    "sm_80": [("float64", 1), ("float16", 8)],
    "sm_90": [("float32", 4), ("bfloat16", 2)],
    "sm_100": [("float32", 4), ("bfloat16", 8)],
}


@needs_nvrtc
@pytest.mark.parametrize("arch", COMBINATIONS)
@pytest.mark.parametrize("file", registry.FILES)
def test_nvrtc_compiles(file, arch):
    if arch not in cuda_host.architectures():
        pytest.skip(f"this NVRTC does not know {arch}: 12.8 is the first that knows them all")
    (kernel, *_) = kernels = kernels_of(file)
    for real, pack in COMBINATIONS[arch]:
        code = cuda_host.compile_for(arch, file, launch.defines(kernel, real, pack, "int32", real))
        assert all(f".text.{k.name}".encode() in code for k in kernels)
        used, beside = (cuda_host.noted(code, what) for what in (cuda_host.REGISTERS, cuda_host.STACK))
        for k in kernels:  # a processor has 65,536, and hands them out by 8 to each thread of a block
            blocks = 4 if (file, k.block) == ("channels.cu", registry.TILE) else 1  # at a time: see sums.BLOCKS
            assert 0 < -(-used[k.name] // 8) * 8 * np.prod(k.block) * blocks <= 65536, f"{k.name}: {used[k.name]}"
            assert blocks == 1 or beside[k.name] == 0, f"{k.name}: numbers do not fit into its registers"


@needs_nvrtc
def test_nvrtc_names_the_file_and_the_line(planted):
    """Although it is given one text: ``common.h`` stands in each file."""
    planted("columns.cu", "int image = i;", "int image = ;")
    with pytest.raises(AssertionError, match=r"columns.cu\(8\): error: expected an expression"):
        cuda_host.compile_for("sm_90", "columns.cu", ())
    planted("common.h", "#define ENTRY", "int broken = ;\n#define ENTRY")
    with pytest.raises(AssertionError, match=r"common.h\(20\): error: expected an expression"):
        cuda_host.compile_for("sm_90", "batch.cu", ())
