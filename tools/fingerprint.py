"""Did a change keep every bit? Trains a few networks and prints a hash of all their weights, one line each.

    python tools/fingerprint.py > before.txt        # then change the code, and again:
    python tools/fingerprint.py | diff before.txt - && echo the same bits

``DUALNET_ONEDNN=0`` and ``DUALNET_BACKEND=strict`` give different bits, so compare each only with itself.
``DUALNET_DATA`` names a folder that holds mnist/; without it LeNet-5 is left out.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy

import dualnet as dn

OPTIMIZERS = {
    "sgd": lambda: dn.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "rmsprop": lambda: dn.RMSProp(lr=1e-3, momentum=0.9, centered=True, weight_decay=1e-4),
    "adam": lambda: dn.Adam(weight_decay=1e-4, clip_norm=1.0, clip_value=0.5),
    "adamw": lambda: dn.AdamW(lr=dn.schedules.Cosine(1e-3, steps=40)),
}


def fingerprint(net: dn.Layer) -> str:
    """The first 16 digits of the SHA-256 of everything that a network has learned."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(
            numpy.ascontiguousarray(dn.to_numpy(value)).tobytes() if hasattr(value, "shape") else b"%d" % value
        )
    return digest.hexdigest()[:16]


def every_layer() -> dn.Layer:
    """A small network with a layer of each kind."""
    curves = [dn.ELU(), dn.LeakyReLU(), dn.GELU(), dn.SiLU(), dn.Tanh(), dn.Softplus(), dn.Sigmoid()]
    chain = [dn.Conv2D(8, 3, padding="same"), *curves, dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2)]
    block = [dn.SeparableConv2D(8, 3, padding="same"), dn.GroupNorm(2), dn.GELU(approximate=True)]
    branches = [dn.Conv2D(4, 1), dn.Conv2D(4, 3, padding="same", groups=2), dn.DepthwiseConv2D(3, padding="same")]
    return dn.Sequential(
        [
            *chain,
            dn.Residual(dn.Sequential(block)),
            dn.Parallel(branches, merge="concat"),
            dn.Conv2DTranspose(8, 2, stride=2),
            dn.LayerNorm(),
            dn.L2Pool2D(2),
            dn.AveragePool2D(2),
            dn.Dropout(0.25),
            dn.Flatten(),
            dn.Dense(10),
        ]
    )


def trained(net: dn.Layer, data: Any, **options: Any) -> dn.Layer:
    (x, t), held_out = data
    net.fit(x, t, batch_size=64, verbose=0, validation_data=(held_out[0][:256], held_out[1][:256]), **options)
    return net


def main() -> None:
    digits = dn.data.load_digits()
    few = (digits[0][0][:256], digits[0][1][:256]), digits[1]
    for name, make in OPTIMIZERS.items():
        say(f"digits_cnn {name}", trained(dn.models.digits_cnn(), digits, optimizer=make()))
    for dtype in ("float64", "float16", "bfloat16"):
        net = dn.models.digits_cnn().init((8, 8, 1), dtype=dtype)
        say(f"digits_cnn {dtype}", trained(net, digits))
        say(f"every layer {dtype}", trained(every_layer().init((8, 8, 1), dtype=dtype), few))
    say("every layer", trained(every_layer(), few, augment=dn.data.Augment(shift=1)))
    generator = numpy.random.default_rng(0)
    colour = (generator.random((128, 32, 32, 3), "float32"), generator.integers(0, 10, 128))
    for name in ("vgg6", "resnet20"):
        say(name, trained(getattr(dn.models, name)(), (colour, colour), optimizer=OPTIMIZERS["sgd"]()))
    answers = (digits[0][1][:, None] == numpy.arange(10)).astype("float32")
    for loss in ("mean_squared_error", "binary_cross_entropy", "huber"):
        held_out = digits[0][0], answers
        say(f"digits_cnn {loss}", trained(dn.models.digits_cnn(), (held_out, held_out), loss=loss))
    if (folder := Path(os.environ.get("DUALNET_DATA", "")) / "mnist").is_dir():
        say("lenet5 mnist", trained(dn.models.lenet5(), dn.data.load_mnist(folder), optimizer=OPTIMIZERS["sgd"]()))


def say(name: str, net: dn.Layer) -> None:
    print(f"{name:32s} {fingerprint(net)}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
