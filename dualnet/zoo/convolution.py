"""Exercises on convolutions. Each op is wrong on purpose, in one place of its backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

from ..shim import namespace
from .exercise import Case, Exercise, by_loops, normal

__all__ = ["EXERCISES"]

Sizes = tuple[int, int, int, int, int, int, int]


def maps(*sizes: Sizes, **options: tuple) -> Callable[[numpy.random.Generator], list[Case]]:
    """Maps and banks of (N, H, W, C, k1, k2, D), with the options of each."""

    def draw(rng: numpy.random.Generator) -> list[Case]:
        return [
            Case(normal(rng, (N, H, W, C), (k1, k2, C, D)), {name: values[i] for name, values in options.items()})
            for i, (N, H, W, C, k1, k2, D) in enumerate(sizes)
        ]

    return draw


TRUTH = by_loops("conv2d", 2)


def conv2d(x, w):
    """x (N, H, W, C), w (k1, k2, C, D) -> y (N, P, Q, D). pullback(dy) -> dx, dw."""
    xp = namespace("conv2d", x=x, w=w)
    (N, H, W, _), (k1, k2, _, D) = x.shape, w.shape
    P, Q = H - k1 + 1, W - k2 + 1
    y = xp.zeros((N, P, Q, D), dtype=x.dtype)
    for m in range(k1):
        for n in range(k2):
            y += x[:, m : m + P, n : n + Q] @ w[m, n]  # E4  tap (m, n) of every window at once

    def pullback(dy):
        dx, dw = xp.zeros(x.shape, dtype=x.dtype), xp.zeros(w.shape, dtype=w.dtype)
        for m in range(k1):
            for n in range(k2):
                window = x[:, m : m + P, n : n + Q]
                dw[m, n] = xp.einsum("nijc,nijd->cd", window, dy)  # E11
                dx[:, m : m + P, n : n + Q] = dy @ w[m, n].T  # E13
        return dx, dw

    return y, pullback


OVERWRITTEN_WINDOWS = Exercise(
    name="overwritten-windows",
    symptom="The last convolution learns; those in front hardly do, because their deltas are far too small.",
    story="""The deltas are too small, and more so with every layer on the way back. With 1 × 1 filters everything is
    perfect. A larger learning rate helps a little, until the last layer, whose gradient is right, explodes.""",
    op=conv2d,
    anchors=("E13",),
    hint="A pixel in the middle of the map is read by k1 · k2 windows. How many of them are heard on the way back?",
    fix=(
        (
            "dx[:, m : m + P, n : n + Q] = dy @ w[m, n].T  # E13",
            "dx[:, m : m + P, n : n + Q] += dy @ w[m, n].T  # E13",
        ),
    ),
    lesson="""E13 is a sum over all taps. Windows overlap, so a pixel was used several times, and what is used several
    times collects several deltas. With = only the delta of the last window is kept. The rule of the adjoint: where the
    forward pass reads, the backward pass adds.""",
    truth=TRUTH,
    cases=maps((2, 4, 5, 2, 2, 3, 3), (1, 5, 4, 1, 3, 3, 2)),
    linear=(0, 1),
)


def correlate(x, w):
    """x (N, H, W, C), w (k1, k2, C, D) -> y (N, P, Q, D). pullback(dy) -> dx, dw."""
    xp = namespace("correlate", x=x, w=w)
    (N, H, W, _), (k1, k2, _, D) = x.shape, w.shape
    P, Q = H - k1 + 1, W - k2 + 1
    y = xp.zeros((N, P, Q, D), dtype=x.dtype)
    for m in range(k1):
        for n in range(k2):
            y += x[:, m : m + P, n : n + Q] @ w[m, n]  # E4

    def pullback(dy):
        dx, dw = xp.zeros(x.shape, dtype=x.dtype), xp.zeros(w.shape, dtype=w.dtype)
        for m in range(k1):
            for n in range(k2):
                window = x[:, m : m + P, n : n + Q]
                dx[:, m : m + P, n : n + Q] += dy @ w[m, n].T  # E13
                dw[k1 - 1 - m, k2 - 1 - n] = xp.einsum("nijc,nijd->cd", window, dy)  # E11, E3  turned
        return dx, dw

    return y, pullback


TURNED_GRADIENT = Exercise(
    name="turned-gradient",
    symptom="The loss falls in the first steps, then rises; blurring filters learn, edge filters do not.",
    story="""The lecture said: "in the backward pass the kernel is flipped". So the author flipped it. A network that
    only has to tell bright from dark learns at once. One that has to tell an edge on the left from an edge on the
    right unlearns what it knew.""",
    op=correlate,
    anchors=("E11", "E3"),
    hint="A tap's gradient is made of the pixels it met. Which one did tap (m, n) meet, with the window at (i, j)?",
    fix=(
        (
            'dw[k1 - 1 - m, k2 - 1 - n] = xp.einsum("nijc,nijd->cd", window, dy)  # E11, E3  turned',
            'dw[m, n] = xp.einsum("nijc,nijd->cd", window, dy)  # E11',
        ),
    ),
    lesson="""The kernel is turned in E13, on the way to the input. E11 asks what each tap met, and tap (m, n) met
    o[i+m, j+n]: the input is *correlated* with the deltas, and nothing is turned. Only a forward pass that is a true
    convolution (E2) turns dw. A filter that looks the same upside down does not notice the difference; an edge filter
    is pushed in exactly the wrong direction.""",
    truth=TRUTH,
    cases=maps((2, 4, 5, 2, 2, 3, 3), (1, 5, 4, 1, 3, 2, 2)),
    linear=(0, 1),
)


def conv2d_by_flipping(x, w):
    """x (N, H, W, C), w (k1, k2, C, D) -> y (N, P, Q, D). pullback(dy) -> dx, dw, as most articles write it."""
    xp = namespace("conv2d_by_flipping", x=x, w=w)
    (N, H, W, _), (k1, k2, _, D) = x.shape, w.shape
    P, Q = H - k1 + 1, W - k2 + 1
    y = xp.zeros((N, P, Q, D), dtype=x.dtype)
    for m in range(k1):
        for n in range(k2):
            y += x[:, m : m + P, n : n + Q] @ w[m, n]  # E4

    def pullback(dy):
        dx, dw = xp.zeros(x.shape, dtype=x.dtype), xp.zeros(w.shape, dtype=w.dtype)
        framed = xp.zeros((N, H + k1 - 1, W + k2 - 1, D), dtype=dy.dtype)  # the deltas in a frame of k − 1 zeros
        framed[:, k1 - 1 : H, k2 - 1 : W] = dy
        for m in range(k1):
            for n in range(k2):
                dw[m, n] = xp.einsum("nijc,nijd->cd", x[:, m : m + P, n : n + Q], dy)  # E11
                dx += framed[:, m : m + H, n : n + W] @ w[m, n].T  # E13
        return dx, dw

    return y, pullback


UNTURNED_KERNEL = Exercise(
    name="unturned-kernel",
    symptom="One convolution learns perfectly; a second one put in front of it learns nothing useful.",
    story="""The loss falls, but however many convolutions are stacked, accuracy stays at that of a single one on top of
    random ones. The check in the test suite is green: it sets dy to ones and compares the sum of dx with a
    difference. In the picture of dx the kernel, which points to the left, seems to point to the right.""",
    op=conv2d_by_flipping,
    anchors=("E13", "E3"),
    hint="In E13 the index of δ is i − m. Does tap m here meet the delta m places further on, or m places back?",
    fix=(
        (
            "dx += framed[:, m : m + H, n : n + W] @ w[m, n].T  # E13",
            "dx += framed[:, m : m + H, n : n + W] @ w[k1 - 1 - m, k2 - 1 - n].T  # E13  rot180(w)",
        ),
    ),
    lesson="""dx[i,j] = Σ δ[i−m, j−n] · w[m,n] runs backwards through the deltas: it is a *convolution* (E2), and
    sliding a window forwards computes it only with the kernel turned by 180° (E3). This is where the kernel is
    flipped. A symmetric kernel hides the mistake; so does a check with ones, because the turned kernel has the same
    sum.""",
    truth=TRUTH,
    cases=maps((2, 4, 5, 2, 2, 3, 3), (1, 5, 4, 1, 3, 2, 2)),
    linear=(0, 1),
)


def padded_conv2d(x, w, *, padding):
    """x (N, H, W, C), w (k1, k2, C, D), zeros around x -> y (N, P, Q, D). pullback(dy) -> dx, dw."""
    xp = namespace("padded_conv2d", x=x, w=w)
    (N, H, W, C), (k1, k2, _, D), p = x.shape, w.shape, padding
    P, Q = H + 2 * p - k1 + 1, W + 2 * p - k2 + 1
    padded = xp.zeros((N, H + 2 * p, W + 2 * p, C), dtype=x.dtype)
    padded[:, p : p + H, p : p + W] = x  # E6
    y = xp.zeros((N, P, Q, D), dtype=x.dtype)
    for m in range(k1):
        for n in range(k2):
            y += padded[:, m : m + P, n : n + Q] @ w[m, n]  # E4

    def pullback(dy):
        dpadded, dw = xp.zeros(padded.shape, dtype=x.dtype), xp.zeros(w.shape, dtype=w.dtype)
        for m in range(k1):
            for n in range(k2):
                dw[m, n] = xp.einsum("nijc,nijd->cd", padded[:, m : m + P, n : n + Q], dy)  # E11
                dpadded[:, m : m + P, n : n + Q] += dy @ w[m, n].T  # E13
        dx = dpadded[:, :H, :W]  # E6
        return dx, dw

    return y, pullback


UNCROPPED_PADDING = Exercise(
    name="uncropped-padding",
    symptom="The saliency map is shifted: it marks a place below and to the right of the digit.",
    story="""With "valid" convolutions all is well. With "same" convolutions the network learns, but the deeper it is,
    the worse. Somebody lays the gradient of the input over the image and finds it displaced, down and to the right, by
    one pixel for each layer.""",
    op=padded_conv2d,
    anchors=("E13", "E6"),
    hint="Where in the padded map is pixel (0, 0) of x?",
    fix=(("dx = dpadded[:, :H, :W]  # E6", "dx = dpadded[:, p : p + H, p : p + W]  # E6"),),
    lesson="""Padding is an op too: it copies x into the middle of a larger map. Its pullback reads the middle again
    and throws the frame away, because constant zeros need no gradient. Cut as many rows as x has, but from the corner,
    and the shape is right while every number is p places off.""",
    truth=TRUTH,
    cases=maps((2, 4, 5, 2, 3, 3, 2), (1, 3, 4, 1, 5, 2, 2), padding=(1, 2)),
    linear=(0, 1),
)


def dilated_conv2d(x, w, *, dilation):
    """x (N, H, W, C), w (k1, k2, C, D), taps r = dilation apart -> y (N, P, Q, D). pullback(dy) -> dx, dw."""
    xp = namespace("dilated_conv2d", x=x, w=w)
    (N, H, W, _), (k1, k2, _, D), r = x.shape, w.shape, dilation
    P, Q = H - r * (k1 - 1), W - r * (k2 - 1)
    y = xp.zeros((N, P, Q, D), dtype=x.dtype)
    for m in range(k1):
        for n in range(k2):
            y += x[:, m * r : m * r + P, n * r : n * r + Q] @ w[m, n]  # E4, E6

    def pullback(dy):
        dx, dw = xp.zeros(x.shape, dtype=x.dtype), xp.zeros(w.shape, dtype=w.dtype)
        for m in range(k1):
            for n in range(k2):
                dw[m, n] = xp.einsum("nijc,nijd->cd", x[:, m : m + P, n : n + Q], dy)  # E11
                dx[:, m * r : m * r + P, n * r : n * r + Q] += dy @ w[m, n].T  # E13, E6
        return dx, dw

    return y, pullback


CLOSE_TAPS = Exercise(
    name="close-taps",
    symptom="Dilation should widen the view, but the filters learn what small filters learn, only worse.",
    story="""The network sees twice as far in the forward pass. Its filters, drawn after training, are smooth little
    blobs, as if neighbouring taps had met neighbouring pixels. With dilation 1 the layer passes every test, and there
    are no other tests.""",
    op=dilated_conv2d,
    anchors=("E11", "E6"),
    hint="Compare the slices of x: which pixels did tap (m, n) read in the forward pass, and which does E11 read?",
    fix=(
        (
            'xp.einsum("nijc,nijd->cd", x[:, m : m + P, n : n + Q], dy)  # E11',
            'xp.einsum("nijc,nijd->cd", x[:, m * r : m * r + P, n * r : n * r + Q], dy)  # E11, E6',
        ),
    ),
    lesson="""E4, E11 and E13 share one rule about what meets what: tap (m, n) of window (i, j) meets pixel
    (i + m·r, j + n·r). It must be the same rule all three times. Tap (0, 0) is right by accident, which is why the
    filters are not pure noise. Test every option with a value that differs from its default.""",
    truth=TRUTH,
    cases=maps((2, 5, 6, 1, 2, 3, 2), (1, 6, 5, 2, 3, 2, 2), dilation=(2, 2)),
    linear=(0, 1),
)


def strided_conv2d(x, w, *, stride):
    """x (N, H, W, C), w (k1, k2, C, D), windows s = stride apart -> y (N, P, Q, D). pullback(dy) -> dx, dw."""
    xp = namespace("strided_conv2d", x=x, w=w)
    (N, H, W, _), (k1, k2, _, D), s = x.shape, w.shape, stride
    P, Q = (H - k1) // s + 1, (W - k2) // s + 1  # E6
    y = xp.zeros((N, P, Q, D), dtype=x.dtype)
    for m in range(k1):
        for n in range(k2):
            y += x[:, m : m + s * P : s, n : n + s * Q : s] @ w[m, n]  # E4, E6

    def pullback(dy):
        dx, dw = xp.zeros(x.shape, dtype=x.dtype), xp.zeros(w.shape, dtype=w.dtype)
        framed = xp.zeros((N, H + k1 - 1, W + k2 - 1, D), dtype=dy.dtype)  # room for all deltas, and a frame of zeros
        framed[:, k1 - 1 : k1 - 1 + P, k2 - 1 : k2 - 1 + Q] = dy
        for m in range(k1):
            for n in range(k2):
                window = x[:, m : m + s * P : s, n : n + s * Q : s]
                dw[m, n] = xp.einsum("nijc,nijd->cd", window, dy)  # E11, E6
                dx += framed[:, m : m + H, n : n + W] @ w[k1 - 1 - m, k2 - 1 - n].T  # E13  rot180(w)
        return dx, dw

    return y, pullback


CROWDED_DELTAS = Exercise(
    name="crowded-deltas",
    symptom="Everything in front of a strided layer learns only from the upper left quarter of the image.",
    story="""Replacing pooling with a stride of 2 costs ten points of accuracy. In every image the gradient of the input
    is zero on the right and at the bottom, and rather large in the upper left corner. The strided layer's own filters
    learn well.""",
    op=strided_conv2d,
    anchors=("E13", "E6"),
    hint="Window (1, 1) begins at pixel (s, s). Where must its delta be, so that E13 finds it?",
    fix=(
        (
            "framed[:, k1 - 1 : k1 - 1 + P, k2 - 1 : k2 - 1 + Q] = dy",
            "framed[:, k1 - 1 : H : s, k2 - 1 : W : s] = dy  # s − 1 zeros between the deltas",
        ),
    ),
    lesson="""E13 with stride: the windows were s pixels apart, so their deltas are s pixels apart, with s − 1
    zeros between them. A strided convolution is a convolution of which only every s-th output is kept, and what is
    thrown away on the way there is zero on the way back.""",
    truth=TRUTH,
    cases=maps((2, 5, 6, 2, 2, 3, 2), (1, 7, 5, 1, 3, 2, 2), stride=(2, 3)),
    linear=(0, 1),
)


def grouped_conv2d(x, w, *, groups):
    """x (N, H, W, C), w (k1, k2, C/g, D): g groups of channels and filters -> y (N, P, Q, D). pullback -> dx, dw."""
    xp = namespace("grouped_conv2d", x=x, w=w)
    (N, H, W, C), (k1, k2, _, D), g = x.shape, w.shape, groups
    P, Q = H - k1 + 1, W - k2 + 1
    parts = xp.reshape(x, (N, H, W, g, C // g))
    bank = xp.reshape(w, (k1, k2, C // g, g, D // g))
    y = xp.zeros((N, P, Q, g, D // g), dtype=x.dtype)
    for m in range(k1):
        for n in range(k2):
            y += xp.einsum("nijgc,cgd->nijgd", parts[:, m : m + P, n : n + Q], bank[m, n])  # E4, E6

    def pullback(dy):
        dparts, dbank = xp.zeros(parts.shape, dtype=x.dtype), xp.zeros(bank.shape, dtype=w.dtype)
        deltas = xp.swapaxes(xp.reshape(dy, (N, P, Q, D // g, g)), 3, 4)  # (N, P, Q, g, D/g)
        for m in range(k1):
            for n in range(k2):
                dbank[m, n] = xp.einsum("nijgc,nijgd->cgd", parts[:, m : m + P, n : n + Q], deltas)  # E11
                dparts[:, m : m + P, n : n + Q] += xp.einsum("nijgd,cgd->nijgc", deltas, bank[m, n])  # E13
        return xp.reshape(dparts, x.shape), xp.reshape(dbank, w.shape)

    return xp.reshape(y, (N, P, Q, D)), pullback


def _groups(rng: numpy.random.Generator) -> list[Case]:
    sizes: tuple[Any, ...] = ((1, 4, 5, 4, 2, 3, 6, 2), (2, 3, 4, 6, 2, 2, 6, 3))
    return [Case(normal(rng, (N, H, W, C), (k1, k2, C // g, D)), {"groups": g}) for N, H, W, C, k1, k2, D, g in sizes]


CROSSED_GROUPS = Exercise(
    name="crossed-groups",
    symptom="With one group the loss falls; with two it wanders.",
    story="""With one group the layer is perfect. With as many groups as filters, as a depthwise layer has, it is
    perfect too. Anything in between learns badly. No shape is wrong, no number is large, and the gradients have
    exactly the norm that one expects.""",
    op=grouped_conv2d,
    anchors=("E6", "E11", "E13"),
    hint="Filters 0, 1, 2 are group 0, and 3, 4, 5 group 1. Which filters does the reshape put into group 0?",
    fix=(
        (
            "deltas = xp.swapaxes(xp.reshape(dy, (N, P, Q, D // g, g)), 3, 4)  # (N, P, Q, g, D/g)",
            "deltas = xp.reshape(dy, (N, P, Q, g, D // g))",
        ),
    ),
    lesson="""A reshape splits an axis from left to right: (g, D/g) makes g runs of neighbouring filters, (D/g, g)
    deals the filters out like cards. The forward pass did the first, so deltas that are dealt out end up with the
    filters of another group. With g = 1 or D/g = 1 both are the same: another mistake that hides behind square and
    trivial sizes.""",
    truth=TRUTH,
    cases=_groups,
    linear=(0, 1),
)


EXERCISES = (
    OVERWRITTEN_WINDOWS,
    TURNED_GRADIENT,
    UNTURNED_KERNEL,
    UNCROPPED_PADDING,
    CLOSE_TAPS,
    CROWDED_DELTAS,
    CROSSED_GROUPS,
)
