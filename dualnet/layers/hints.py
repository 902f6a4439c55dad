"""What a newcomer probably meant: a method of another framework, an image without its batch."""

from __future__ import annotations

from ..shim import Array

HABITS = {
    "backward": "forward returns the pullback: y, pullback = net.forward(x, train=True); dx, grads = pullback(dy)",
    "add": "Make a chain from a list: dn.Sequential([layer, layer, ...])",
    "compile": "Pass the optimizer and the loss to net.fit(x, t, optimizer=..., loss=...)",
    "train": "net.fit(x, t) trains; one pass in training is net.forward(x, train=True)",
    "eval": "net(x) is inference; net.evaluate(x, t) is loss and accuracy",
    "zero_grad": "Leave it out: gradients are not stored, each call of a pullback returns new ones",
    "cuda": "net.to('cupy') moves the network to the GPU",
    "save_weights": "net.save(path) saves the network with its weights; dn.load(path) reads them",
}
"""Methods of other frameworks, and what to write here instead."""


def attribute_hint(name: str, initialised: bool) -> str:
    """What to do about an attribute that does not exist (yet); ``""`` if there is no good guess.

    >>> attribute_hint("eval", initialised=True)
    '. net(x) is inference; net.evaluate(x, t) is loss and accuracy'
    """
    if name in HABITS:
        return f". {HABITS[name]}"
    if initialised or name.startswith("_"):
        return ""
    return (
        ". If it is a parameter, the layer has none yet: call init(input_shape) on the network that it is part of, "
        "with keep=True if the other layers should keep theirs"
    )


def shape_hint(x: Array, expected: tuple[int, ...]) -> str:
    """How to turn x into (N, *expected), if only the batch or the channels are missing or misplaced; else ``""``."""
    if tuple(x.shape) == expected:
        return " The batch is missing: x[None] is a batch of one."
    if tuple(x.shape[1:]) == expected[:-1] and expected[-1] == 1:
        return " The channels are missing: x[..., None] has one."
    if tuple(x.shape[1:]) == (*expected[2:], *expected[:2]):
        return " The channels come first: x.transpose(0, 2, 3, 1) has them last."
    return ""
