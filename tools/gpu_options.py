"""The options of tools/gpu_check.sh."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from gpu_facts import ROOT

PARTS = ("parity", "tests", "bench", "profile", "cifar")
DEFAULT = ("parity", "tests", "bench")
SECONDS = 540  # for all parts: well under ten minutes
NETS, DTYPES = ("lenet5", "vgg16_bn", "resnet18"), ("bfloat16", "tf32")
"""The nets that take longest come last: if time runs out, it is for them."""


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def options(about: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/gpu_check.sh", description=about, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add(
        "--only", action="append", type=_words, metavar="PART,...", help=f"of {', '.join(PARTS)} ({', '.join(DEFAULT)})"
    )
    add("--out", type=Path, default=ROOT / "docs" / "gpu", metavar="DIR", help="the folder for results (docs/gpu)")
    add("--backend", default="cupy", metavar="B", help="cupy or cupy:N; numpy for a dry run without a GPU (cupy)")
    add("--seconds", type=float, default=SECONDS, metavar="S", help=f"for all parts ({SECONDS})")
    add("--torch", default=sys.executable, metavar="PYTHON", help="the interpreter that has PyTorch (this one)")
    add("--data", type=Path, metavar="DIR", help="the folder with CIFAR-10's binary files, for cifar")
    add("--quick", action="store_true", help="the quick certificate only")
    add("--nets", type=_words, default=list(NETS), metavar="NET,...", help=f"for bench and profile ({','.join(NETS)})")
    add(
        "--dtypes",
        type=_words,
        default=list(DTYPES),
        metavar="D,...",
        help=f"for bench and profile ({','.join(DTYPES)})",
    )
    add("--batch", type=int, default=256, metavar="N", help="images in a batch, for bench and profile (256)")
    add("--rounds", type=int, default=3, metavar="N", help="rounds of bench (3)")
    add("--tests", action="append", default=[], metavar="TEST", help="some tests instead of all; may be repeated")
    add("--cifar", default="", metavar="OPTIONS", help="options for tools/train_cifar.py, in quotes")
    add("--least", type=float, default=0.93, metavar="SHARE", help="the accuracy that cifar must reach (0.93)")
    parsed = parser.parse_args()
    parsed.only = [part for several in parsed.only or [list(DEFAULT)] for part in several]
    if unknown := [part for part in parsed.only if part not in PARTS]:
        parser.error(f"--only: unknown part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    words = [
        os.path.basename(word) if os.path.isabs(word) else word for word in sys.argv[1:]
    ]  # without the folders of this machine
    parsed.command = shlex.join(["tools/gpu_check.sh", *words])
    try:
        parsed.out.mkdir(parents=True, exist_ok=True)
        (parsed.out / "gpu-check.log").write_text(f"{parsed.command}\n", encoding="utf-8")
    except OSError as error:
        parser.error(f"--out {parsed.out}: {error.strerror}")
    parsed.out = parsed.out.resolve()
    return parsed
