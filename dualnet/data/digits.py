"""1,797 handwritten digits of 8 × 8 pixels, shipped inside the package: see DIGITS-LICENSE.md."""

from __future__ import annotations

from pathlib import Path

from .idx import read_idx
from .reading import Split, check_dtype, scaled

__all__ = ["load_digits"]

TRAIN = 1437
WHOLE = 16  # a pixel counts the dark points in a block of 4 × 4


def load_digits(*, dtype: str = "float32") -> tuple[Split, Split]:
    """The digits that come with the package: 1,437 to train on, 360 to test on.

    Returns ``(x_train, t_train), (x_test, t_test)``: images (N, 8, 8, 1), float32 in [0, 1] or, with
    ``dtype="uint8"``, the bytes 0 … 16; labels int64, 0 … 9. The files hold the images in a fixed shuffled order, so
    the split is the same on every machine and with every version of NumPy.

    Source: Alpaydin and Kaynak (1998), "Optical Recognition of Handwritten Digits", CC BY 4.0.

    >>> import dualnet as dn
    >>> (x_train, t_train), (x_test, t_test) = dn.data.load_digits()
    >>> x_train.shape, x_train.dtype.name, t_train.dtype.name, x_test.shape
    ((1437, 8, 8, 1), 'float32', 'int64', (360, 8, 8, 1))
    >>> for row in x_test[0, :, :, 0]:
    ...     print("".join("·-+#"[int(3.9 * pixel)] for pixel in row))
    ··+#····
    ··###···
    ··###+··
    ··-###··
    ·····#··
    ·····#-·
    ····-#+·
    ··+##+··
    """
    check_dtype(dtype, "load_digits")
    here = Path(__file__).parent
    x = scaled(read_idx(here / "digits-images-idx3-ubyte.gz")[..., None], dtype, WHOLE)
    t = read_idx(here / "digits-labels-idx1-ubyte.gz").astype("int64")
    return (x[:TRAIN], t[:TRAIN]), (x[TRAIN:], t[TRAIN:])
