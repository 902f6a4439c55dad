"""What a newcomer probably meant: a method of another framework, an image without its batch."""

from __future__ import annotations

from ..shim import Array

HABITS = {
    "backward": "forward returns the way back: y, pullback = net.forward(x, train=True); dx, grads = pullback(dy)",
    "add": "A chain is made of a list: dn.Sequential([layer, layer, ...])",
    "compile": "Optimizer and loss are given to net.fit(x, t, optimizer=..., loss=...)",
    "train": "net.fit(x, t) trains; one pass in training is net.forward(x, train=True)",
    "eval": "net(x) is inference; net.evaluate(x, t) is loss and accuracy",
}
"""What other frameworks' methods are here."""


def missing_axis(x: Array, expected: tuple[int, ...]) -> str:
    if tuple(x.shape) == expected:
        return " The batch is missing: x[None] is a batch of one."
    if tuple(x.shape[1:]) == expected[:-1] and expected[-1] == 1:
        return " The channel is missing: x[..., None] has one."
    if tuple(x.shape[1:]) == (*expected[2:], *expected[:2]):
        return " The channels stand first: x.transpose(0, 2, 3, 1) has them last."
    return ""
