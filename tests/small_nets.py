"""A user's own layer and small networks, for tests of what every layer can do."""

from __future__ import annotations

import dualnet as dn


class Scale(dn.Layer):
    """The example of layers/layer.py: a layer of a user's own."""

    def build(self, input_shape, draw):
        self.g = draw.parameter("ones", (input_shape[-1],))

    def forward(self, x, train=False):
        g = self.g.value
        y = x * g

        def pullback(dy):
            xp = dn.backend.backend_of(x).xp
            return dy * g, {"g": xp.sum(dy * x, axis=tuple(range(x.ndim - 1)))}

        return y, dn.Pullback("scale", pullback, y, x=x, g=g)


def small():
    """For inputs (5, 5, 2): "0.w", "0.b", "1.layer.g", "1.shortcut.w", "2.w" and "2.b"."""
    return dn.Sequential([dn.Conv2D(3, 3), dn.Residual(Scale(), dn.Conv2D(3, 1, use_bias=False)), dn.Conv2D(2, 1)])


def conv(filters, k=3, **options):
    """A convolution that keeps height and width."""
    return dn.Conv2D(filters, k, padding="same", **options)


def batch(rng, *shape):
    """Two examples of float64."""
    return dn.asarray(rng.standard_normal((2, *shape)))
