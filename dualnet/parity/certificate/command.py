"""The body of ``dualnet parity``: its options, the files it writes, and the text it prints."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...training.progress import bar as progress_bar
from ...training.progress import drawn
from ...writing import check_writable, replace_file

__all__ = ["CODES", "add_options", "run"]

CODES = {"PASS": 0, "FAIL": 1, "INVALID": 1, "PARTIAL": 3, "NOT-RUN": 3}
"""Exit codes. 3: nothing wrong was found, but not everything was compared."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dualnet parity``."""
    add = parser.add_argument
    add("--backend", dest="against", type=_words, metavar="B,...",
        help="what NumPy is compared with: strict, cupy, cupy:N, torch, … (strict and cupy)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="the seed of all cases, weights and orders (0)")
    add("--quick", action="store_true", help="one case of every kind and 20 training steps: takes seconds")
    add("--ops", type=_words, metavar="OP,...", help="some ops instead of all")
    add("--networks", type=_words, metavar="NET,...", help="some of lenet5, vgg6 and resnet20, or none")
    add("--dtype", type=_words, metavar="D,...", help="float32, float64, float16, bfloat16 (the first two)")
    add("--out", metavar="FILE.json", help="write the certificate as JSON")
    add("--markdown", metavar="FILE.md", help="write it as a page in Markdown")
    add("--html", metavar="FILE.html", help="write it as a page for a browser")
    add("--op", metavar="OP", help="with --case: show one case and its numbers")
    add("--case", type=int, metavar="N", help="with --op: the number of the case")
    add("--large", type=int, metavar="N", help="with --op: one of the large cases, kernels against references")
    add("--network", metavar="NET", help="compare only this network")
    add("--ranks", type=int, metavar="R", help="compare R ranks that train together with one that trains alone")


def run(options: argparse.Namespace, command: list[str]) -> tuple[str, int]:
    """The text to print, and the exit code."""
    backends = options.against or ["strict", "cupy"]
    if options.op is not None:
        return _one(options, backends)
    if options.case is not None or options.large is not None:
        raise ValueError("--case and --large need the op: --op conv2d --case 17")
    from .certificate import DTYPES, certify

    for file in filter(None, (options.out, options.markdown, options.html)):
        _writable(Path(file))  # fail before computing anything
    networks = [options.network] if options.network else options.networks
    ops = ["relu"] if options.network and options.ops is None else options.ops  # one op, for the top of the page
    with _progress() as tell:
        certificate = certify(
            backends=backends,
            ops=ops,
            dtypes=options.dtype or DTYPES,
            networks=[] if networks == ["none"] else networks,
            seed=options.seed,
            quick=options.quick,
            command=shlex.join(["dualnet", "parity", *command]),
            tell=tell,
        )
    if options.out:
        certificate.write(options.out)
    if options.markdown:
        replace_file(options.markdown, certificate.markdown().encode())
    if options.html:
        replace_file(options.html, certificate.page().encode())
    return certificate.markdown(), CODES[certificate.verdict]


def _one(options: argparse.Namespace, backends: list[str]) -> tuple[str, int]:
    from .reproducer import one_case

    if (options.case is None) == (options.large is None):
        raise ValueError(
            f"--op {options.op} needs the number of a case: --case N or --large N (or say --ops {options.op})"
        )
    number = options.case if options.large is None else options.large
    texts, agree = [], True
    for dtype in options.dtype or ["float32"]:
        text, ok = one_case(options.op, number, seed=options.seed, dtype=dtype, backends=backends,
                            large=options.large is not None)  # fmt: skip
        texts.append(text)
        agree = agree and ok
    return "\n".join(texts), 0 if agree else 1


def _writable(path: Path) -> None:
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"{path}: cannot be written; expected a file in a folder that exists")
    check_writable(path)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal; silence elsewhere."""
    bar: Any = progress_bar("parity", 100)

    def tell(what: str, share: float) -> None:
        if bar is not None:
            drawn(bar, lambda bar: bar.set_postfix_str(what, refresh=False))
            drawn(bar, lambda bar: bar.update(max(0, round(100 * share) - bar.n)))

    try:
        yield tell
    finally:
        if bar is not None:
            drawn(bar, lambda bar: bar.close())


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
