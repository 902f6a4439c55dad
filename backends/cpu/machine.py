"""Which kind of processor this is: only the differences that decide which algorithm is fastest."""

from __future__ import annotations

import functools
import platform

INTEL, AMD = "AVX-512, Intel", "AVX-512, AMD"
AVX2, OTHER = "AVX2", "other instructions"


@functools.lru_cache(maxsize=1)
def kind() -> str:
    """:data:`INTEL`, :data:`AMD`, :data:`AVX2` or :data:`OTHER`: which instructions NumPy may use here, and who made
    the processor.

    With AVX-512, different algorithms are fastest on AMD's processors than on Intel's. An unknown maker counts as
    Intel.
    """
    features = _features()
    if features.get("AVX512F") and features.get("AVX512VL"):
        return AMD if "AMD" in _maker() else INTEL
    return AVX2 if features.get("AVX2") and features.get("FMA3") else OTHER


@functools.lru_cache(maxsize=1)
def processor() -> str:
    """The processor's name, such as ``"Intel(R) Xeon(R) Processor @ 2.60GHz"``."""
    return _line("model name") or platform.processor() or platform.machine()


def _features() -> dict[str, bool]:
    """The features that NumPy found, without those in ``NPY_DISABLE_CPU_FEATURES``."""
    try:
        from numpy._core._multiarray_umath import __cpu_features__
    except ImportError:  # a NumPy that keeps it elsewhere
        return {}
    return __cpu_features__


def _maker() -> str:
    """``"GenuineIntel"`` or ``"AuthenticAMD"``; on Windows and macOS at the end of a longer text."""
    return _line("vendor_id") or platform.processor()


def _line(name: str) -> str:
    """What Linux reports for its first processor under this name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
    except OSError:
        return ""
