"""A line of Python, or several, beside the training: ``net``, ``x``, ``t``, ``optimizer`` and ``dn`` are there."""

from __future__ import annotations

import ast
import contextlib
import traceback
from typing import Any

import numpy

import dualnet as dn

from .printed import Printed
from .training import Training

LONGEST = 20_000
HERE = "<console>"


class Console:
    """Names that were set in one command are there in the next."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"dn": dn, "np": numpy, "numpy": numpy}

    def run(self, code: str, training: Training) -> dict[str, Any]:
        """Run it; what it prints, and the value of a last expression, as Python shows it."""
        pictures = training.pictures
        self.names |= {"net": training.net, "optimizer": training.optimizer, "training": training}
        self.names |= {"x": pictures.x, "t": pictures.t, "xv": pictures.xv, "tv": pictures.tv}
        out, ok = Printed(LONGEST), True
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                self._run(code)
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                ok = False
                out.write(told(error))
        training.remember(pinned=True)  # the code may have changed the network: rewinding keeps that
        return {"text": out.shown(), "ok": ok}

    def _run(self, code: str) -> None:
        tree = ast.parse(code, HERE)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, HERE, "exec"), self.names)
        if last is not None:
            found = eval(compile(ast.Expression(last.value), HERE, "eval"), self.names)
            if found is not None:
                print(repr(found))


def told(error: BaseException) -> str:
    """The error as Python prints it, with the lines that were entered and none of the library's."""
    lines = traceback.TracebackException.from_exception(error)
    lines.stack = traceback.StackSummary.from_list([frame for frame in lines.stack if frame.filename == HERE])
    return "".join(lines.format())
