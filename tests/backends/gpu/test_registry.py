"""The table of CUDA kernels: complete, with references that exist; and structures that are laid out as in C."""

from __future__ import annotations

import configparser
import dataclasses
import fnmatch
import re
from pathlib import Path

import numpy as np
import pytest

from dualnet.backend import references
from dualnet.backends import cupy_backend
from dualnet.backends.gpu import registry, sources

ROOT = Path(__file__).resolve().parents[3]


def unmatched():
    """Kernels without a row, and rows without a kernel."""
    found = {(path.name, name) for path in sources.FOLDER.glob("*.cu") for name in sources.entries(path.name)}
    return found ^ {(kernel.file, kernel.name) for kernel in registry.KERNELS.values()}


def test_every_kernel_has_a_row_and_every_row_a_kernel():
    assert unmatched() == set()


def test_a_kernel_without_a_row_and_a_row_without_a_kernel_would_be_seen(planted):
    planted("columns.cu", "ENTRY im2col(", "ENTRY im2columns(")
    assert unmatched() == {("columns.cu", "im2col"), ("columns.cu", "im2columns")}
    kernel = dataclasses.replace(registry.KERNELS["im2col"])  # a fresh one, which has read nothing
    with pytest.raises(ValueError, match=r"columns.cu has no ENTRY im2col\(...\); it has im2columns, col2im"):
        kernel.types  # noqa: B018


@pytest.mark.skipif(not (ROOT / "setup.cfg").exists(), reason="the list is in the checkout")
def test_every_file_ships():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    globs = config["options.package_data"]["dualnet.backends.gpu"].replace(" ", "").split(",")
    for path in sources.FOLDER.iterdir():
        assert any(fnmatch.fnmatch(f"kernels/{path.name}", glob) for glob in globs), path.name


def test_every_kernel_names_its_reference():
    named = {kernel.reference for kernel in registry.KERNELS.values()}
    assert named <= references.keys()
    assert cupy_backend.KERNELS.keys() <= references.keys()
    assert named <= cupy_backend.KERNELS.keys()


def test_all_kernels_of_a_file_are_compiled_together():
    for file in registry.FILES:
        assert len({kernel.options for kernel in registry.KERNELS.values() if kernel.file == file}) == 1, file


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 25, 28, 641, 1000, 2**16 - 1, 2**30 + 1, 2**31 - 1])
def test_division_by_multiplication(rng, n):
    _, magic, shift = registry.divisor(n)
    assert magic < 2**32
    edges = np.array([q * n + r for q in (0, 1, 2, (2**31 - 1) // n) for r in (-1, 0, 1)])
    values = np.concatenate([edges, rng.integers(0, 2**31, 2000), [2**31 - 1]])
    for i in map(int, values[(values >= 0) & (values < 2**31)]):
        high = i * magic >> 32
        assert high + i < 2**32 and (high + i) >> shift == i // n


# -- structures --------------------------------------------------------------------------------------------------------


def fields(file, structure):
    """The names in a C structure, in their order."""
    (body,) = re.findall(
        rf"^struct {structure} \{{.*?\n(.*?)^\}};", sources.source(file), flags=re.MULTILINE | re.DOTALL
    )
    declarations = re.sub(r"//.*", "", body).split(";")
    return [
        re.sub(r"\[\w+\]", "", name).split()[-1].strip("*") for d in declarations if d.strip() for name in d.split(",")
    ]


@pytest.mark.parametrize(
    ("file", "structure", "dtype"),
    [
        ("columns.cu", "Divisor", registry.DIVISOR),
        ("columns.cu", "Windows", registry.WINDOWS),
        ("elementwise.cu", "Key", registry.KEY),
        ("channels.cu", "Layout", registry.LAYOUT),
        ("convolution.cu", "Bank", registry.BANK),
        ("optimizers.cu", "Tensor", registry.TENSOR),
        ("optimizers.cu", "Rule", registry.rule("float32")),
        ("banks.cu", "Turn", registry.TURN),
        ("channels.cu", "Statistics", registry.followed("float32")["at"].subdtype[0]),
    ],
)
def test_structures_have_the_fields_of_the_source(file, structure, dtype):
    assert fields(file, structure) == list(dtype.names)


def test_a_field_by_n_is_the_divisor_of_n():
    made = registry.structure("Bank", D=6, C_group=5, D_group=3)
    assert made["by_C_group"].item() == registry.divisor(5) and made["by_D"].item() == registry.divisor(6)
    assert registry.bank((3, 3, 5, 6), 2) == made
    assert registry.divided_by(7)["divisor"] == 7 and registry.divided_by(7) is registry.divided_by(7)


@pytest.mark.parametrize("blocks", [1, 4, 528])
@pytest.mark.parametrize("channels", [1, 3, 16, 31, 32, 40, 500])
def test_blocks_share_all_rows_of_a_map(channels, blocks):
    for places in (1, 7, 1000):
        made = registry.layout(places * channels, channels, blocks)
        width, rows, chunks, chunk = (int(made[name]) for name in ("width", "rows", "chunks", "chunk"))
        assert width % channels == 0 and (rows - 1) * width < places * channels <= rows * width
        assert (chunks - 1) * chunk < rows <= chunks * chunk and chunk % registry.TILE[1] == 0
        assert chunks * -(-width // registry.TILE[0]) <= max(blocks, -(-width // registry.TILE[0]))


def test_numbers_of_the_sources():
    for file, name, value in [
        ("optimizers.cu", "PER_LAUNCH", registry.PER_LAUNCH),
        ("optimizers.cu", "PER_BLOCK", registry.PER_BLOCK),
        ("banks.cu", "PER_LAUNCH", registry.PER_LAUNCH),
        ("channels.cu", "PER_LAUNCH", registry.PER_LAUNCH),
        ("banks.cu", "SIDE", registry.SIDE),
        ("banks.cu", "ROWS", registry.TILE[1]),
        ("channels.cu", "LANES", registry.TILE[0]),
        ("channels.cu", "ROWS", registry.TILE[1]),
        ("channels.cu", "TALL", registry.TALL[1]),
    ]:
        assert re.search(rf"^#define {name} {value}\b", sources.source(file), flags=re.MULTILINE), f"{file}: {name}"
