"""PyTorch's tensors on the CPU (``torch``, ``torch:cpu``) or a GPU: ``torch:cuda``, ``torch:cuda:1``, ``torch:mps``, …

The ops run as they are written, on PyTorch's functions: no autograd, no cuDNN, no kernels. So the same backward passes
run on GPUs of AMD (``torch:cuda`` in a ROCm build), Apple (``torch:mps``) and Intel (``torch:xpu``). On the CPU
``numpy``, and on an NVIDIA GPU ``cupy``, are faster: they have kernels as well. ``dn.asarray(tensor)`` takes a tensor
of the same device without copying it, and ``array.held`` is the tensor again.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy

from dualnet.shim import Array, Backend, BackendUnavailable
from dualnet.shim.dtypes import dtype_of

from . import adapter

DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()
ACCELERATORS = ("cuda", "mps", "xpu")


def load(device: str | None = None) -> Backend:
    """PyTorch on one device. Raises :class:`BackendUnavailable` with the cause and the fix."""
    torch, standard = _libraries()
    here = _device(torch, device or "cpu")
    name = f"torch:{here}"
    library = adapter.Library(
        name=name,
        standard=standard,
        dtypes=_dtypes(torch, here),
        to_held=lambda host: _to_held(torch, here, host),
        to_host=lambda held: _to_host(torch, held),
        options={"device": here},
        mend=lambda word, function: _mended(torch, word, function),
    )
    made: Any = adapter.backend(
        library,
        synchronize=lambda: _synchronize(torch, here),
        describe=lambda: {"library": f"torch {torch.__version__} on {_title(torch, here)}"},
        set_precision=lambda precision: _set_precision(torch, here, precision),
        adopt=lambda x: _adopted(torch, here, x, made),
    )
    return made


def _libraries() -> tuple[Any, Any]:
    found = []
    for package, module in (("torch", "torch"), ("array-api-compat", "array_api_compat.torch")):
        try:
            found.append(importlib.import_module(module))
        except ImportError as error:
            cause = f"{package} is not installed" if error.name in (package, "array_api_compat") else str(error)
            line = cause.partition("\n")[0]
            raise BackendUnavailable(f'torch: {line}. Install it with: pip install "dualnet[torch]"') from None
    return found[0], found[1]


# -- devices -----------------------------------------------------------------------------------------------------------


def _device(torch: Any, name: str) -> Any:
    """The device of this name, with its number, if it exists and can compute."""
    there = devices(torch)
    wanted = f"{name}:0" if name in ACCELERATORS else name
    if wanted not in there:
        raise BackendUnavailable(
            f"torch:{name}: there is no such device here; the devices are {', '.join(f'torch:{d}' for d in there)}"
        )
    here = torch.device(wanted)
    try:
        ones = torch.ones((2, 2), device=here)
        total = (ones @ ones + ones).sum().item()
    except Exception as error:
        line = str(error).partition("\n")[0]
        raise BackendUnavailable(f"torch:{name}: a tiny product failed: {line}") from None
    if total != 12.0:
        raise BackendUnavailable(f"torch:{name}: a tiny product gave {total}, not 12.0")
    return here


def devices(torch: Any) -> list[str]:
    """What PyTorch finds here, such as ``["cpu", "cuda:0", "cuda:1"]``."""
    found = ["cpu"]
    for kind in ACCELERATORS:
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            found += [f"{kind}:{number}" for number in range(module.device_count())]
    return found


def _dtypes(torch: Any, here: Any) -> dict[str, Any]:
    """The dtypes that the device has, by the names that NumPy gives them."""
    found = {name: getattr(torch, name) for name in DTYPES if (name, here.type) != ("float64", "mps")}
    try:
        dtype_of("bfloat16")
    except ImportError:  # NumPy's bfloat16 comes in a separate package
        return found
    return {**found, "bfloat16": torch.bfloat16}


def _synchronize(torch: Any, here: Any) -> None:
    if here.type == "mps":
        torch.mps.synchronize()
    elif here.type != "cpu":
        getattr(torch, here.type).synchronize(here)


def _title(torch: Any, here: Any) -> str:
    module = getattr(torch, here.type)
    return f"{module.get_device_name(here)} ({here})" if hasattr(module, "get_device_name") else str(here)


def _set_precision(torch: Any, here: Any, precision: str) -> None:
    """Products are the only thing that TF32 would round: the ops call no convolution of PyTorch's."""
    if here.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


# -- copies ------------------------------------------------------------------------------------------------------------


def _to_held(torch: Any, here: Any, host: numpy.ndarray) -> Any:
    host = host.copy(order="C")  # never the caller's memory
    if host.dtype.name == "bfloat16":
        return torch.from_numpy(host.view(numpy.int16)).view(torch.bfloat16).to(here)
    return torch.from_numpy(host).to(here)


def _to_host(torch: Any, held: Any) -> numpy.ndarray:
    host = held.cpu()
    if held.dtype == torch.bfloat16:
        return host.contiguous().view(torch.int16).numpy().view(dtype_of("bfloat16")).copy()
    return host.numpy().copy()


def _adopted(torch: Any, here: Any, x: Any, made: Backend) -> Array | None:
    """A tensor of this device as an array over the same memory; None for anything else."""
    if not isinstance(x, torch.Tensor) or x.device != here or x.layout != torch.strided:
        return None
    kind: Any = made.array_types[0]
    return kind(x.detach().resolve_conj().resolve_neg()) if x.dtype in kind._dtypes else None


# -- unsigned numbers, for which PyTorch lacks much --------------------------------------------------------------------


def _mended(torch: Any, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, for unsigned numbers too. It computes in int64, which holds every number of 16 or 32 bits.

    A uint64 is read as the int64 of the same bits: sums and products come out the same. Before numbers are compared,
    the sign bit is flipped; after a shift to the right, the copies of the sign that came in from the left are cleared.
    """
    if name in KEEPING:
        return function
    unsigned, whole = (torch.uint16, torch.uint32, torch.uint64), torch.uint64

    def serve(*args: Any, **options: Any) -> Any:
        if name == "truediv" and not isinstance(args[0], torch.Tensor):  # else x / y is x · (1 / y), rounded twice
            args = torch.full((), args[0], dtype=args[1].dtype, device=args[1].device), args[1]
        own = next((a.dtype for a in args if isinstance(a, torch.Tensor) and a.dtype in unsigned), None)
        if own is None:
            return function(*args, **options)
        if own == whole and name in SIGNED:
            raise TypeError(f"torch: {name} is not computed in uint64; convert with x.astype('int64')")
        flip = -(2**63) if own == whole and name in ORDER else 0
        result = function(*(_signed(torch, a, own, flip) for a in args), **options)
        if name in SHIFTS and own == whole:
            result = result & ((1 << (64 - args[1])) - 1)
        if result.dtype != torch.int64 or name in PLACES:
            return result
        return (result ^ flip).view(whole) if own == whole else result.to(own)

    def new(*args: Any, **options: Any) -> Any:
        dtype = options["dtype"]
        if dtype not in unsigned:
            return function(*args, **options)
        made = function(*args, **{**options, "dtype": torch.int64})
        return made.view(whole) if dtype == whole else made.to(dtype)

    return new if name == "arange" else serve


def _signed(torch: Any, a: Any, own: Any, flip: int) -> Any:
    """A tensor of ``own``, or a number beside it, as int64 with the same bits, except those of ``flip``, which are
    inverted."""
    if isinstance(a, torch.Tensor):
        a = a if a.dtype != own else a.view(torch.int64) if own == torch.uint64 else a.to(torch.int64)
        return a ^ flip if flip else a
    if type(a) is int and own == torch.uint64:
        a = (a - 2**64 if a >= 2**63 else a) ^ flip
    return a


KEEPING = {"empty", "zeros", "ones", "full", "eye", "flip", "roll", "permute_dims", "moveaxis", "tile", "astype"}
"""Functions that do no arithmetic."""
ORDER = set(
    "lt le gt ge less less_equal greater greater_equal max min maximum minimum argmax argmin sort argsort".split()
)
PLACES = {"argmax", "argmin", "argsort", "count_nonzero"}
"""Functions that return places, or how many elements there are."""
SHIFTS = {"rshift", "irshift"}
SIGNED = set("floordiv ifloordiv floor_divide mod imod remainder pow ipow power abs".split())
"""Functions whose results have other bits in int64 than in uint64."""
