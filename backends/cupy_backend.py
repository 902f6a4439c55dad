"""CuPy on NVIDIA GPUs: ``cupy`` is the current device when CuPy is first used, ``cupy:1`` the second device.

Loading proves that a device works by running a small kernel and a small product on it, or says why it does not and how
to fix that. An op computes on the device of its arrays, and makes it the thread's current device.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import numpy

from dualnet.shim import Array, Backend, BackendUnavailable

from .gpu import cublas, cudnn_kernels, cudnn_plans, graph, installing, maps, nccl, steps, sums

OWN = {**maps.KERNELS, **sums.KERNELS, **steps.KERNELS}
KERNELS: dict[str, tuple[Callable[..., Any], ...]] = {
    name: tuple(kernels[name] for kernels in (cudnn_kernels.KERNELS, OWN) if name in kernels) for name in OWN
}
"""cuDNN is asked first; it declines if it is not installed, or switched off."""

OLDEST = 14
COMPUTE_TYPES = {"strict": "COMPUTE_TYPE_DEFAULT", "tf32": "COMPUTE_TYPE_TF32"}


def load(device: int | None = None) -> Backend:
    """The CuPy backend on one device. Raises :class:`BackendUnavailable` with the cause and the fix."""
    cupy = _library()
    number = _number(cupy, device)
    here = cupy.cuda.Device(number)
    _prove(cupy, here)

    def from_host(host: numpy.ndarray) -> Array:
        with here:
            return cupy.asarray(host)

    def set_precision(name: str) -> None:
        # Set even where it is CuPy's default, because CUPY_TF32=1 in the environment would change that default.
        linalg = importlib.import_module("cupy._core._routines_linalg")
        with here:
            linalg.set_compute_type(numpy.float32, getattr(linalg, COMPUTE_TYPES[name]))

    return Backend(
        name=f"cupy:{number}",
        xp=cupy,
        array_types=(cupy.ndarray,),
        from_host=from_host,
        to_host=cupy.asnumpy,
        kernels=KERNELS,  # type: ignore[arg-type]
        synchronize=here.synchronize,
        describe=lambda: _describe(cupy, here),
        locate=lambda array: f"cupy:{array.data.device_id}",
        activate=here.use,
        set_precision=set_precision,
        recorder=lambda: graph.Recorder(cupy, here),
        lasting=lambda: graph.lasting(cupy),
        peers=lambda: nccl.Peers(cupy, here),
    )


def _library() -> Any:
    wheels = [wheel for wheel in installing.WHEELS if installing.installed(wheel)]
    if len(wheels) > 1:
        raise _unavailable(
            f"{len(wheels)} CuPy packages are installed and break each other ({', '.join(wheels)})",
            f"Remove them all with: pip uninstall -y {' '.join(wheels)}; "
            f"then install one with: {installing.install_line()}",
        )
    try:
        cupy = importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise _broken(error) from None
        raise _unavailable("CuPy is not installed", f"Install it with: {installing.install_line()}") from None
    except Exception as error:
        raise _broken(error) from None
    if int(cupy.__version__.partition(".")[0]) < OLDEST:
        raise _unavailable(
            f"CuPy {cupy.__version__} is installed; expected {OLDEST} or newer",
            f"Update it with: {installing.install_line()}",
        )
    return cupy


def _number(cupy: Any, device: int | None) -> int:
    """The number of the device asked for, or of the current one."""
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except Exception as error:
        raise _no_device(runtime, error) from None
    if count == 0:
        raise _unavailable("there is no NVIDIA device here", WITHOUT_GPU)
    number = runtime.getDevice() if device is None else device
    if number >= count:
        raise _unavailable(f"there is no device {number}; the devices are {', '.join(map(_name, range(count)))}")
    return number


WITHOUT_GPU = (
    "CuPy is installed, but needs an NVIDIA GPU with its driver: nvidia-smi shows both, and a container gets them with "
    "--gpus all. Without a GPU, choose 'numpy' or 'auto'"
)


def _no_device(runtime: Any, error: Exception) -> BackendUnavailable:
    if "InsufficientDriver" in str(error):
        if driver := runtime.driverGetVersion():
            needed = installing.dotted(runtime.runtimeGetVersion())
            return _unavailable(
                f"the NVIDIA driver supports CUDA {installing.dotted(driver)}, but this CuPy needs {needed}",
                f"Update the driver, or install the CuPy that fits it with: {installing.install_line(driver)}",
            )
        return _unavailable("there is no NVIDIA driver here", WITHOUT_GPU)
    if "NoDevice" in str(error):
        return _unavailable("there is no NVIDIA device here", WITHOUT_GPU)
    return _unavailable(f"the CUDA runtime does not start: {installing.first_line(error)}", WITHOUT_GPU)


def _prove(cupy: Any, here: Any) -> None:
    """Run one compiled kernel and one product by cuBLAS: every network needs both."""
    try:
        with here:
            ones = cupy.ones((2, 2), dtype=numpy.float32)
            total = cupy.sum(cupy.matmul(ones, ones) + ones).item()
    except Exception as error:
        raise _unavailable(
            f"a tiny kernel failed on device {here.id}: {installing.first_line(error)}",
            f"The parts of CUDA that CuPy needs come with: {installing.install_line()}",
        ) from None
    if total != 12.0:
        raise _unavailable(f"a tiny kernel on device {here.id} computed {total}, not 12.0")


def _broken(error: Exception) -> BackendUnavailable:
    return _unavailable(
        f"CuPy cannot be imported: {installing.first_line(error)}", f"Reinstall it with: {installing.install_line()}"
    )


def _unavailable(cause: str, fix: str = "") -> BackendUnavailable:
    return BackendUnavailable(f"cupy: {cause}. {fix}".rstrip(" ."))


def _describe(cupy: Any, here: Any) -> dict[str, str]:
    runtime = cupy.cuda.runtime
    with here:
        pool = cupy.get_default_memory_pool()
        free, total = runtime.memGetInfo()
        return {
            "gpu": f"{runtime.getDeviceProperties(here.id)['name'].decode()} ({_name(here.id)})",
            "cupy": cupy.__version__,
            "driver": f"CUDA {installing.dotted(runtime.driverGetVersion())}",
            "cuda": installing.dotted(runtime.runtimeGetVersion()),
            "cublas": cublas.version(cupy) or "CuPy's",
            **cudnn_plans.describe(),
            "gpu memory": (
                f"{_mib(pool.used_bytes())} used and {_mib(pool.total_bytes())} reserved by CuPy's pool; "
                f"{_mib(free)} of {_mib(total)} free"
            ),
        }


def _name(number: int) -> str:
    return f"cupy:{number}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
