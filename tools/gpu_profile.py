"""Where the time of a training step goes, kernel by kernel: python tools/gpu_profile.py lenet5 --dtype bfloat16

PyTorch's profiler sees everything that its process runs on the GPU, kernels of CuPy and cuDNN included. Each step is
launched from Python (a graph runs the same kernels without gaps): dualnet's first, then PyTorch's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy

import dualnet as dn
from dualnet.bench import measure, nets
from dualnet.bench.peers import runner

STEPS = 5
SHOWN = 14


def main() -> int:
    options = _options()
    if options.backend:
        dn.set_backend(options.backend)
    import torch

    who_runs = ("dualnet", "torch")
    if options.any_order:
        allow_any_order()
        who_runs = ("dualnet",)
    device = "cuda" if dn.get_backend().startswith("cupy") else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise OSError("this PyTorch has no CUDA, so its profiler sees no kernels; install a build with CUDA")
    if device == "cuda":
        torch.ones(1, device="cuda")  # so that PyTorch's profiler is ready
    found, wrong = [], 0
    for dtype in options.dtype.split(","):
        for net in options.nets:
            for who in who_runs:
                try:
                    found.append(profiled(who, net, dtype, options.batch, device, torch))
                except Exception as error:  # the others can still be profiled
                    wrong += 1
                    print(f"{net} {dtype}, {who}: {type(error).__name__}: {error}", flush=True)
                    continue
                if options.any_order:
                    found[-1]["program"] = "dualnet, sums in any order"
                print("\n".join(shown(found[-1])), flush=True)
                if options.json:
                    options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if wrong else 0


def allow_any_order() -> None:
    """From now on cuDNN may add up in an order that changes from run to run, such as split-K with atomic additions.

    dualnet never allows that: the same step would give different bits. This shows the cost of that rule.
    """
    from dualnet.backends.gpu import cudnn_plans

    kept = os.environ.get("DUALNET_CUDNN_AUTOTUNE", "")
    if kept not in ("", "0", "1"):
        raise ValueError(
            f"--any-order must neither use the plans in {kept} nor add to them; unset DUALNET_CUDNN_AUTOTUNE"
        )
    cudnn_plans.NEVER = tuple(note for note in cudnn_plans.NEVER if note != "NONDETERMINISTIC")


def profiled(who: str, net: str, dtype: str, batch: int, device: str, torch: Any) -> dict[str, Any]:
    """Microseconds of each kernel in a step."""
    script = runner.load(measure.PROGRAMS[who].path())
    with tempfile.TemporaryDirectory() as folder:
        task = {**nets.plan(net), "batch": batch, "mode": "training", "dtype": dtype, "device": device, "seed": 0}
        task |= {"momentum": 0.9, "variant": "channels_last" if who == "torch" else "", "threads": 1, "seconds": 0.2}
        task["weights"] = str(Path(folder) / "weights.npz")
        numpy.savez(task["weights"], **nets.weights(net))
        run, value = script.build(task, *runner.data(task), runner.weights(task))
    wait = script.waiting(task)
    for _ in range(3):
        value(run())
    whole = min(runner.bursts(run, wait, 0.2))
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CUDA if device == "cuda" else kinds.CPU]) as profiler:
        for _ in range(STEPS):
            run()
        wait()
    rows = rows_of(profiler.events(), torch.autograd.DeviceType.CUDA)
    busy = sum(row["us"] for row in rows)
    step = {"program": who, "net": net, "dtype": dtype, "batch": batch, "step_us": round(whole * 1e6, 1)}
    return {
        **step,
        "busy_us": round(busy, 1),
        "launches": round(sum(r["launches"] for r in rows)),
        "kernels": rows[:60],
    }


def rows_of(events: Any, device: Any) -> list[dict[str, Any]]:
    """Microseconds and launches of each kernel in a step, the longest first.

    Only the work of the device itself counts: not the calls that launch it, nor the regions that PyTorch names, such as
    an optimizer's step. Those are listed for the device too, and would count its kernels twice.
    """
    kernels: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for event in events:
        if event.device_type == device and not event.is_user_annotation:
            kernels[event.name][0] += 1 / STEPS
            kernels[event.name][1] += event.time_range.elapsed_us() / STEPS
    rows = [{"kernel": n, "launches": round(k, 2), "us": round(us, 2)} for n, (k, us) in kernels.items()]
    return sorted(rows, key=lambda row: -row["us"])


def shown(found: dict[str, Any]) -> list[str]:
    """A few lines of text."""
    head = f"{found['net']} {found['dtype']}, batch {found['batch']}, {found['program']}"
    kernels = f"kernels {found['busy_us']:.0f} µs in {found['launches']} launches"
    lines = [f"{head}: {found['step_us']:.0f} µs a step from Python, {kernels}"]
    for row in found["kernels"][:SHOWN]:
        share = 100 * row["us"] / found["busy_us"]
        lines.append(f"  {row['us']:9.1f} µs {share:5.1f} % {row['launches']:6.1f} ×  {row['kernel'][:80]}")
    return lines


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/gpu_profile.py", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("nets", nargs="+", metavar="NET", help=f"of {', '.join(nets.NAMES)}")
    add("--backend", metavar="B", help="cupy or cupy:N (DUALNET_BACKEND, or numpy, which has no kernels to show)")
    add("--dtype", default="bfloat16", metavar="D,...", help="float32, tf32, bfloat16, float16 (bfloat16)")
    add("--batch", type=int, default=256, metavar="N", help="images in a batch (256)")
    add("--any-order", action="store_true", help="dualnet alone, with plans whose sums differ from run to run")
    add("--json", type=Path, metavar="FILE", help="write all numbers into this file")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError, ImportError, dn.BackendUnavailable) as error:
        sys.exit(f"gpu_profile: {' '.join(str(error).split())}")
