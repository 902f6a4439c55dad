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


class Twice(dn.Layer):
    """A container of a user's own that runs its layer two times."""

    def __init__(self, inner):
        self.inner = inner

    def children(self):
        return {"inner": self.inner}

    def build(self, input_shape, draw):
        self.inner.init_from(input_shape, draw.child(0))

    def forward(self, x, train=False):
        between, one = self.inner.forward(x, train)
        y, two = self.inner.forward(between, train)

        def pullback(dy):
            dx, late = two(dy)
            dx, early = one(dx)
            return dx, {f"inner.{name}": late[name] + early[name] for name in late}

        return y, dn.Pullback("Twice", pullback, y, children={"one": one, "two": two})


def small():
    """For inputs (5, 5, 2): "0.w", "0.b", "1.layer.g", "1.shortcut.w", "2.w" and "2.b"."""
    return dn.Sequential([dn.Conv2D(3, 3), dn.Residual(Scale(), dn.Conv2D(3, 1, use_bias=False)), dn.Conv2D(2, 1)])


def conv(filters, k=3, **options):
    """A convolution that keeps height and width."""
    return dn.Conv2D(filters, k, padding="same", **options)


def batch(rng, *shape):
    """Two examples of float64."""
    return dn.asarray(rng.standard_normal((2, *shape)))
