"""Fail fast on a GPU: test what must work before anything is measured, and write the results after every step.

    python tools/gpu_smoke.py OUT.json [--backend cupy] [--small]

The exit code is 1 if a step fails without which nothing else makes sense, 2 if a later step fails, and 0 if all is
well. The file lists each step, its seconds, and its result or why it failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import dualnet as dn

TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "bfloat16": 2e-2, "float16": 3e-3}
"""How far a result may be from float64, as a share of its norm: a few roundings of the dtype."""


class Smoke:
    """The steps so far, and the sizes."""

    def __init__(self, out: Path, backend: str, small: bool) -> None:
        self.out, self.backend, self.small = out, backend, small
        self.begun, self.steps = time.monotonic(), []  # type: ignore[var-annotated]
        self.N, self.C, self.S = (2, 8, 8) if small else (32, 64, 32)

    def step(self, name: str, work: Callable[..., Any], *arguments: Any) -> bool:
        """Do one step and write down how it went."""
        start = time.monotonic()
        row: dict[str, Any] = {"step": name}
        try:
            row |= {"ok": True, "found": work(*arguments)}
        except Exception as error:
            why = f"{type(error).__name__}: {error}"[:600]
            row |= {"ok": False, "why": why, "trace": traceback.format_exc()[-1500:]}
        row["seconds"] = round(time.monotonic() - start, 2)
        self.steps.append(row)
        found = {"seconds": round(time.monotonic() - self.begun, 1), "steps": self.steps}
        self.out.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
        print(f"{name}: {row['found'] if row['ok'] else 'FAILED ' + row['why']}", flush=True)
        return row["ok"]

    def all(self) -> int:
        """Every step; the exit code."""
        if not self.step("the backend, a kernel, a product", self.begins):
            return 1
        if self.backend.startswith("cupy"):
            self.step("cuDNN", self.cudnn)
        for dtype in TOLERANCE:
            self.step(f"conv2d {dtype}", self.convolution, dtype)
            self.step(f"batch_norm {dtype}", self.normalisation, dtype)
            self.step(f"max_pool2d {dtype}", self.pooling, dtype)
            self.step(f"dense {dtype}", self.dense, dtype)
        if self.backend.startswith("cupy"):
            self.step("which shapes cuDNN serves", self.served)
        nets = [("lenet5", "float32"), ("lenet5", "bfloat16"), *([] if self.small else [("resnet18", "bfloat16")])]
        for net, dtype in nets:
            self.step(f"a captured step has the bits of an eager one: {net} {dtype}", self.captured, net, dtype)
        return 0 if all(row["ok"] for row in self.steps) else 2

    # -- the steps

    def begins(self) -> dict[str, Any]:
        dn.set_backend(self.backend)
        x = dn.asarray(np.arange(6.0, dtype="float32").reshape(2, 3))
        y, _ = dn.ops.dense(x, dn.asarray(np.ones((3, 2), "float32")), None)
        z, _ = dn.ops.relu(y)
        np.testing.assert_array_equal(dn.to_numpy(z), [[3.0, 3.0], [12.0, 12.0]])
        return {key: dn.info().get(key) for key in ("gpu", "cupy", "driver", "cuda", "cublas", "numpy", "python")}

    def cudnn(self) -> str:
        said = str(dn.info().get("cudnn", "no: not known"))
        if said.startswith("no"):
            raise RuntimeError(said)
        return said

    def convolution(self, dtype: str) -> list[float]:
        rng, C = np.random.default_rng(0), self.C
        x, w, b = (rng.standard_normal(s) for s in ((self.N, self.S, self.S, C), (3, 3, C, C), (C,)))
        return near(dn.ops.conv2d, (x, w / (3 * C**0.5), b), dtype, TOLERANCE[dtype], padding=1)

    def normalisation(self, dtype: str) -> list[float]:
        x = np.random.default_rng(0).standard_normal((self.N, self.S, self.S, self.C))
        return near(dn.ops.batch_norm, (x, np.ones(self.C), np.full(self.C, 0.1)), dtype, 3 * TOLERANCE[dtype])

    def pooling(self, dtype: str) -> list[float]:
        """Max pooling of numbers that every dtype can hold exactly, so that all find the same winners."""
        x = np.random.default_rng(0).permutation(self.N * self.S * self.S * self.C) % 255.0
        x = x.reshape(self.N, self.S, self.S, self.C)
        return near(dn.ops.max_pool2d, (x,), dtype, TOLERANCE[dtype], pool_size=2)

    def dense(self, dtype: str) -> list[float]:
        rng = np.random.default_rng(0)
        return near(
            dn.ops.dense, (rng.standard_normal((self.N, 512)), rng.standard_normal((512, 96)) / 20, None), dtype,
            TOLERANCE[dtype],
        )  # fmt: skip

    def served(self) -> dict[str, Any]:
        from dualnet.backends.gpu import cudnn_plans

        left = {str(shape): why for shape, why in list(cudnn_plans.reasons.items())[:20]}
        return {"cudnn": dn.info().get("cudnn"), "left": left}

    def captured(self, net: str, dtype: str) -> list[float]:
        (eager, before), (losses, after) = (self.trained(net, dtype, eager) for eager in (True, False))
        other = [name for name in before if before[name] != after[name]]
        if eager != losses or other:
            raise AssertionError(f"losses {eager} and {losses}; other bits in {', '.join(other[:5]) or 'nothing else'}")
        return losses

    def trained(self, name: str, dtype: str, eager: bool) -> tuple[list[float], dict[str, bytes]]:
        """The losses of six steps, and the bits of the network's whole state after them."""
        from dualnet.bench import nets

        net, optimizer = nets.network(name, 0, dtype), dn.SGD(lr=0.01, momentum=0.9)
        rng, batch = np.random.default_rng(3), 8 if self.small else 64
        x = dn.asarray(rng.standard_normal((batch, *net.input_shape)), dtype)
        t = dn.asarray(rng.integers(0, 10, batch))

        def step(x: Any, t: Any) -> Any:
            y, pullback = net.forward(x, train=True)
            loss, dloss = dn.losses.softmax_cross_entropy(y.astype("float32"), t, check_labels=False)
            _, gradients = pullback(dloss().astype(dtype))
            optimizer.step(net, gradients)
            return loss

        run = dn.capture(step, eager=eager)
        losses = [float(dn.to_numpy(run(x, t))) for _ in range(6)]
        return losses, {key: dn.to_numpy(value).tobytes() for key, value in net.state_dict().items()}


def near(op: Callable[..., Any], arrays: tuple, dtype: str, tolerance: float, **options: Any) -> list[float]:
    """How far y and every gradient are from NumPy's in float64. Raises ``AssertionError`` beyond the tolerance."""
    arrays = tuple(None if a is None else dn.to_numpy(dn.asarray(a, dtype)).astype("float64") for a in arrays)
    dy = None
    results = []
    for kind, backend in (("float64", "numpy"), (dtype, None)):
        y, pullback = op(*(None if a is None else dn.asarray(a, kind, backend=backend) for a in arrays), **options)
        if dy is None:
            dy = dn.to_numpy(dn.asarray(np.random.default_rng(1).standard_normal(y.shape), dtype)).astype("float64")
        gradients = pullback(dn.asarray(dy, kind, backend=backend))
        several = gradients if isinstance(gradients, tuple) else (gradients,)
        results.append([dn.to_numpy(a).astype("float64") for a in (y, *several) if a is not None])
    off = []
    for want, got in zip(*results, strict=True):
        off.append(float(f"{np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30):.1e}"))
        if not np.isfinite(got).all() or off[-1] > tolerance:
            raise AssertionError(f"result {len(off)} is off by {off[-1]:.1e}, allowed {tolerance:.0e}")
    return off


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/gpu_smoke.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT.json", help="the file for the steps")
    parser.add_argument("--backend", default="cupy", metavar="B", help="cupy or cupy:N; numpy without a GPU (cupy)")
    parser.add_argument("--small", action="store_true", help="small sizes, two networks")
    options = parser.parse_args()
    return Smoke(options.out, options.backend, options.small).all()


if __name__ == "__main__":
    sys.exit(main())
