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
"""Methods of other frameworks, and what to write here instead."""


def attribute_hint(name: str, initialised: bool) -> str:
    """What to do about an attribute that is not there (yet); ``""`` if there is nothing to guess.

    >>> attribute_hint("eval", initialised=True)
    '. net(x) is inference; net.evaluate(x, t) is loss and accuracy'
    """
    if name in HABITS:
        return f". {HABITS[name]}"
    if initialised or name.startswith("_"):
        return ""
    return (
        ". It has no parameters yet: call init(input_shape) on the network in which it stands, with keep=True if the "
        "other layers are to keep theirs"
    )


def shape_hint(x: Array, expected: tuple[int, ...]) -> str:
    """How to make (N, *expected) of x, if only the batch or the channels are missing or elsewhere; else ``""``."""
    if tuple(x.shape) == expected:
        return " The batch is missing: x[None] is a batch of one."
    if tuple(x.shape[1:]) == expected[:-1] and expected[-1] == 1:
        return " The channel is missing: x[..., None] has one."
    if tuple(x.shape[1:]) == (*expected[2:], *expected[:2]):
        return " The channels stand first: x.transpose(0, 2, 3, 1) has them last."
    return ""
