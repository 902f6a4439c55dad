"""Normalisation: batch, layer and group norm, and their pullbacks.

A set of n values is shifted and scaled to mean 0 and variance 1, and then to a learned mean β and a learned spread γ:

    μ = Σ x / n      σ² = Σ (x − μ)² / n      s = √(σ² + ε)      x̂ = (x − μ) / s      y = γ x̂ + β

They differ only in which values form a set: *batch norm* takes all values of a channel (over N, H, W), *layer norm*
all those of one example along some axes, *group norm* those of one example in one group of channels.

σ² is the biased variance (1/n), in two passes as in the formula: the shortcut Σx²/n − μ² loses every digit if
|μ| is much larger than σ.

The backward pass. With dx̂ = γ · dy, the delta reaches x in three ways:

    directly                dx̂ / s
    through the mean        dμ  = −Σ dx̂ / s               and ∂μ/∂x = 1/n
                            (σ² does not move with μ, since Σ (x − μ) = 0)
    through the variance    dσ² = −½ Σ dx̂ (x − μ) / s³    and ∂σ²/∂x = 2 (x − μ) / n

    dx = ( dx̂  −  Σ dx̂ / n  −  x̂ · Σ dx̂ x̂ / n ) / s

Shifting and scaling the whole set changes nothing in y, so the parts of dx̂ that would do so are taken out.
γ and β act like the weight and the bias of a dense layer:

    dγ = Σ dy x̂        E12  dβ = Σ dy            over all places that share the γ or β

In batch norm γ is the same for the whole set, so the two sums in dx are γ dβ and γ dγ. In inference μ and σ² are
constants: only the direct way leads to x, and the other two end in dμ and dσ².

16-bit numbers are converted to float32, since their sums would stop growing at 2048 or 256. γ, β, μ and σ² may be
float32 even if x has 16 bits, as in a 16-bit network: in 16 bits, a γ of 1.001 would be rounded to 1.

If two branches meet and one of them ends with batch norm, then y = γ x̂ + β + other, and a ReLU may follow. Batch norm
then adds the other branch in its own pass (:func:`normalise_add`). In the backward pass both branches get the same
delta: the sum of the incoming deltas (E12), taken through the ReLU (E14); see :func:`joined_backward`.

In float32 the variance of values beyond 1e19 overflows, while y and dx do not. On the host such a set is divided by its
largest value first (:func:`standardise`), and σ² itself stays ∞. A device skips this check, since it would have to
stop.

Source: Ioffe and Szegedy (2015), algorithm 1 and section 3; Ba, Kiros and Hinton (2016); Wu and He (2018).
"""

from __future__ import annotations

from typing import Any

from ..arguments import integer, positive
from ..geometry import Windows, elements
from ..sharing import Part
from ..shim import Array, accelerated, backend_of, namespace, same_backend
from .activation import add, rectify, rectify_backward
from .convolution import correlate
from .pullback import Pullback, TwoDeltas, added_up
from .sums import (
    channel_sum,
    finite_or,
    narrow,
    overflowed,
    quiet,
    rounded_to,
    share,
    summed,
    wide,
    wide_dtype,
)

__all__ = ["batch_norm", "batch_norm_inference", "group_norm", "layer_norm"]


def batch_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    *,
    epsilon: float = 1e-5,
    relu: bool = False,
    other: Array | None = None,
    part: Part | None = None,
) -> tuple[Array, Pullback]:
    """Normalise every channel by its mean and variance over the batch: training (Ioffe and Szegedy 2015, algorithm 1).

    x (N, ..., C) of any rank from 2, gamma (C,), beta (C,) -> y like x, all of one floating dtype.
    ``pullback(dy)`` returns ``(dx, dgamma, dbeta)``; ``pullback.saved`` has the batch's ``mean`` and biased
    ``variance``, both (C,). ``relu=True`` applies ReLU to y, in the same pass over memory. ``other``, an array like x,
    is the output of another branch: it is added to y, before the ReLU, and the pullback returns its delta as a fourth.

    ``part`` means that x is one part of a batch that several ranks share: mean and variance are then those of the whole
    batch, and so are the two sums in dx, while dgamma and dbeta are this part's share of theirs. All ranks call op and
    pullback together.

    Raises ``ValueError`` for shapes that do not fit, and if a channel has a single value: its x̂ would always be 0.

    >>> import dualnet as dn
    >>> x, one, zero = dn.asarray([[1.0], [3.0]]), dn.asarray([1.0]), dn.asarray([0.0])
    >>> y, pullback = dn.ops.batch_norm(x, one, zero)
    >>> dn.to_numpy(y).ravel().round(3)
    array([-1.,  1.], dtype=float32)
    >>> dn.to_numpy(pullback.saved["mean"]), dn.to_numpy(pullback.saved["variance"])
    (array([2.], dtype=float32), array([1.], dtype=float32))
    >>> dx, dgamma, dbeta = pullback(dn.asarray([[0.0], [1.0]]))
    >>> dn.to_numpy(dgamma).round(3), dn.to_numpy(dbeta)
    (array([1.], dtype=float32), array([1.], dtype=float32))
    """
    _namespace("batch_norm", x, gamma=gamma, beta=beta)
    _check_channels("batch_norm", x, gamma=gamma, beta=beta)
    _check_other("batch_norm", x, other)
    epsilon = check_epsilon(epsilon, "batch_norm")
    if part is not None:
        return shared_batch_norm(x, gamma, beta, epsilon, relu, other, part)
    if elements(x.shape[:-1]) < 2:
        raise ValueError(
            f"batch_norm: x {tuple(x.shape)} has {elements(x.shape[:-1])} value(s) per channel; expected at least 2, "
            "or nothing is left after subtracting the mean. Use a larger batch, or forward(x, train=False)."
        )

    with quiet(x):
        if other is None:
            y, mean, variance = batch_normalise(x, gamma, beta, epsilon, relu)
        else:
            y, mean, variance = batch_normalise_add(x, other, gamma, beta, epsilon, relu)
    far, dtypes = overflowed(variance), (x.dtype, gamma.dtype, beta.dtype)  # those of dx, dgamma, dbeta
    if far:
        y, mean = far_batch_normalise(x, gamma, beta, epsilon, relu, other)
    kept = y if relu else None
    before_relu = beta if relu and other is None else None  # x and β are enough to find where y > 0

    def alone(dy: Array | TwoDeltas) -> tuple[Array, ...]:
        """dy (N, ..., C) -> dx (N, ..., C), dgamma (C,), dbeta (C,)."""
        dy = added_up(dy)
        with quiet(x):
            dx, dgamma, dbeta = normalise_backward(dy, x, mean, variance, gamma, epsilon, kept, before_relu)
        if far or overflowed(dgamma, dbeta):
            dx, dgamma, dbeta = far_normalise_backward(dy, x, gamma, epsilon, kept)
        return rounded_to(dtypes, dx, dgamma, dbeta)

    def joined(dy: Array | TwoDeltas) -> tuple[Array, ...]:
        """Like ``alone``, and also the delta of ``other`` (N, ..., C)."""
        with quiet(x):
            dx, dgamma, dbeta, delta = joined_backward(*_two(dy), x, mean, variance, gamma, epsilon, kept)
        if far or overflowed(dgamma, dbeta):
            dx, dgamma, dbeta = far_normalise_backward(delta, x, gamma, epsilon, None)
        return *rounded_to(dtypes, dx, dgamma, dbeta), delta

    saved = {"x": x, "mean": mean, "variance": variance, "gamma": gamma, "beta": before_relu, "y": kept}
    return y, Pullback("batch_norm", alone if other is None else joined, y, **saved).taking_two()


def shared_batch_norm(
    x: Array, gamma: Array, beta: Array, epsilon: float, relu: bool, other: Array | None, part: Part
) -> tuple[Array, Pullback]:
    """Batch norm of a part of a batch, x (N, ..., C), by the statistics of the whole. A part may have no examples."""
    n = part.whole * elements(x.shape[1:-1])  # values per channel, over all ranks
    if n < 2:
        raise ValueError(f"batch_norm: the whole batch has {n} value(s) per channel; expected at least 2")
    mean, variance = shared_moments(x, n, part)
    y = normalised(x, other, mean, variance, gamma, beta, epsilon, relu)
    kept, dtypes, joined = (y if relu else None), (x.dtype, gamma.dtype, beta.dtype), other is not None

    def pullback(dy: Array | TwoDeltas) -> tuple[Array, ...]:
        """dy (N, ..., C) -> dx (N, ..., C), this part's share of dgamma and dbeta (C,), and the delta of ``other``."""
        delta = joined_delta(*_two(dy), kept)
        result = rounded_to(dtypes, *shared_normalise_backward(delta, x, mean, variance, gamma, epsilon, n, part))
        return (*result, delta) if joined else result

    way = Pullback("batch_norm", pullback, y, x=x, mean=mean, variance=variance, gamma=gamma, y=kept)
    return y, way.taking_two()


def shared_moments(x: Array, n: int, part: Part) -> tuple[Array, Array]:
    """Mean and biased variance of every channel over all ranks: (N, ..., C) -> (C,), (C,). In two passes, as above."""
    x = wide(x)
    mean = part.add(channel_sum(x)) / n  # μ = Σ x / n, over all ranks
    squares = x - mean
    squares *= squares
    return mean, part.add(channel_sum(squares)) / n  # σ² = Σ (x − μ)² / n, over all ranks


def shared_normalise_backward(
    dy: Array,
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array,
    epsilon: float,
    n: int,
    part: Part,
) -> tuple[Array, Array, Array]:
    """:func:`normalise_backward` for a part of a batch: μ and σ² depend on the x of all ranks.

    So the sums Σ dx̂ and Σ dx̂ x̂ in dx run over all ranks. dγ and dβ are this part's own sums: like every other
    gradient, they are added up over the ranks later.
    """
    xp, dtype = backend_of(x).xp, dy.dtype
    dy, x, mean, variance, gamma = map(wide, (dy, x, mean, variance, gamma))
    inverse = 1 / xp.sqrt(variance + epsilon)  # 1/s
    centred = x - mean  # (N, ..., C)
    dgamma = channel_sum(dy * centred) * inverse  # Σ dy x̂, of this part
    dbeta = channel_sum(dy)  # E12  Σ dy, of this part
    whole = part.add(xp.stack([dgamma, dbeta]))  # both over all ranks: (2, C)
    dx = centred  # overwritten from here on
    dx *= -inverse * whole[0] / n  # through the variance: −x̂ · Σ dx̂ x̂ / n, before the factor γ/s
    dx += dy  # directly
    dx -= whole[1] / n  # through the mean
    dx *= gamma * inverse  # dx̂ = γ dy, and 1/s
    return dx.astype(dtype, copy=False), dgamma, dbeta


@accelerated
def batch_normalise(x: Array, gamma: Array, beta: Array, epsilon: float, relu: bool) -> tuple[Array, Array, Array]:
    """The batch normalised by its own moments: (N, ..., C), (C,), (C,) -> y (N, ..., C), μ (C,), σ² (C,)."""
    mean, variance = channel_moments(x)
    return normalise(x, mean, variance, gamma, beta, epsilon, relu), mean, variance


@accelerated
def batch_normalise_add(
    x: Array, other: Array, gamma: Array, beta: Array, epsilon: float, relu: bool
) -> tuple[Array, Array, Array]:
    """:func:`batch_normalise`, then the other branch added, and E7 with ``relu``: other and y like x."""
    y, mean, variance = batch_normalise(x, gamma, beta, epsilon, False)
    return add(y, other, relu), mean, variance


@accelerated
def channel_moments(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of every channel: (N, ..., C) -> (C,), (C,)."""
    n = elements(x.shape[:-1])
    x = wide(x)  # the moments are not rounded to 16 bits
    mean = channel_sum(x) / n
    squares = x - mean
    squares *= squares
    return mean, channel_sum(squares) / n


@accelerated
def follow(
    means: list[Array],
    variances: list[Array],
    batch_means: list[Array],
    batch_variances: list[Array],
    keep: list[float],
    n: list[int],
    into: bool = False,
) -> list[tuple[Array, Array]]:
    """Running statistics of several layers after a batch: :func:`followed` for each, mean and variance.

    With ``into``, a kernel may overwrite the old statistics.
    """
    return [followed(*one) for one in zip(means, variances, batch_means, batch_variances, keep, n, strict=True)]


def followed(
    moving_mean: Array, moving_variance: Array, mean: Array, variance: Array, keep: float, n: int
) -> tuple[Array, Array]:
    """Running statistics after a batch of n values per channel: keep · moving + (1 − keep) · batch, all (C,).

    The batch's variance is made unbiased first: multiplied by n / (n − 1).
    """
    mean, variance = narrow(mean, moving_mean), narrow(variance, moving_mean)
    factor, rest = n / (n - 1), 1 - keep
    unbiased = finite_or(variance, lambda: variance * factor * rest, lambda: variance * rest * factor)
    return moving_mean * keep + mean * rest, moving_variance * keep + unbiased


@accelerated
def normalise(
    x: Array, mean: Array, variance: Array, gamma: Array, beta: Array, epsilon: float, relu: bool = False
) -> Array:
    """y = γ (x − μ) / s + β, one μ, σ², γ, β per channel, and E7 with ``relu``: (N, ..., C), (C,) … -> (N, ..., C)."""
    xp, dtype = backend_of(x).xp, x.dtype
    x, mean, variance, gamma, beta = map(wide, (x, mean, variance, gamma, beta))
    y = x - mean
    y *= gamma / xp.sqrt(variance + epsilon)
    y += beta
    y = y.astype(dtype, copy=False)
    return rectify(y) if relu else y  # E7


@accelerated
def normalise_add(
    x: Array, other: Array, mean: Array, variance: Array, gamma: Array, beta: Array, epsilon: float, relu: bool
) -> Array:
    """:func:`normalise`, then the other branch added, and E7 with ``relu``: other and y like x."""
    return add(normalise(x, mean, variance, gamma, beta, epsilon), other, relu)


@accelerated
def correlate_normalise(
    x: Array,
    w: Array,
    b: Array | None,
    at: Windows,
    groups: int,
    norm: tuple[Array, Array, Array, Array],
    epsilon: float,
    relu: bool,
    other: Array | None,
) -> Array:
    """A convolution (E4, E6) followed by :func:`normalised`, for inference: (N, H, W, C) -> (N, H', W', D).

    ``norm`` is μ, σ², γ, β (D,), and ``other`` another branch (N, H', W', D) or None.
    """
    y = correlate(x, w, b, at, groups)
    if other is None or not backend_of(y).on_host:
        return normalised(y, other, *norm, epsilon, relu)
    y = normalise(y, *norm, epsilon)  # the convolution's map is freed before the sum needs memory
    return add(y, other, relu)


def normalised(
    x: Array, other: Array | None, mean: Array, variance: Array, gamma: Array, beta: Array, epsilon: float, relu: bool
) -> Array:
    """:func:`normalise`, or :func:`normalise_add` if there is another branch."""
    if other is None:
        return normalise(x, mean, variance, gamma, beta, epsilon, relu)
    return normalise_add(x, other, mean, variance, gamma, beta, epsilon, relu)


@accelerated
def normalise_backward(
    dy: Array,
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array,
    epsilon: float,
    y: Array | None = None,
    beta: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The pullback of batch norm: (N, ..., C) twice, (C,) three times -> dx (N, ..., C), dγ (C,), dβ (C,).

    If y is given, it is the output of a fused ReLU, and the pullback starts there. A kernel need not read y: if β is
    given too, x is enough to find where y > 0. dγ and dβ are not rounded to 16 bits.
    """
    xp, n, dtype = backend_of(x).xp, elements(x.shape[:-1]), dy.dtype
    dy = dy if y is None else rectify_backward(dy, y)  # E14
    dy, x, mean, variance, gamma = map(wide, (dy, x, mean, variance, gamma))
    inverse = 1 / xp.sqrt(variance + epsilon)  # 1/s
    centred = x - mean  # (N, ..., C)
    dgamma = channel_sum(dy * centred) * inverse  # Σ dy x̂
    dbeta = channel_sum(dy)  # E12  Σ dy
    dx = centred  # overwritten from here on
    dx *= -inverse * dgamma / n  # through the variance: −x̂ · Σ dx̂ x̂ / n, before the factor γ/s
    dx += dy  # directly
    dx -= dbeta / n  # through the mean
    dx *= gamma * inverse  # dx̂ = γ dy, and 1/s
    return dx.astype(dtype, copy=False), dgamma, dbeta


@accelerated
def joined_backward(
    dy: Array,
    second: Array | None,
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array,
    epsilon: float,
    y: Array | None,
) -> tuple[Array, Array, Array, Array]:
    """The pullback of y = γ x̂ + β + other: dx (N, ..., C), dγ (C,), dβ (C,), and the delta of other (N, ..., C).

    ``second`` is the second delta of an output that two branches use; y is the output of a fused ReLU.
    """
    delta = joined_delta(dy, second, y)
    return *normalise_backward(delta, x, mean, variance, gamma, epsilon), delta


def joined_delta(dy: Array, second: Array | None, y: Array | None) -> Array:
    """The delta before the ReLU: the sum of the incoming deltas (E12), where y > 0 (E14). All (N, ..., C)."""
    delta = dy if second is None else add(dy, second)  # E12
    return delta if y is None else rectify_backward(delta, y)  # E14


def far_batch_normalise(
    x: Array, gamma: Array, beta: Array, epsilon: float, relu: bool, other: Array | None
) -> tuple[Array, Array]:
    """y and μ if σ² overflows: (N, ..., C), (C,), (C,) -> (N, ..., C), (C,)."""
    axes, n = range(x.ndim - 1), elements(x.shape[:-1])
    values, part = wide(x), share(n)
    x_hat, _ = standardise(values, tuple(axes), epsilon)
    y = narrow(x_hat * wide(gamma) + wide(beta), x)
    mean = finite_or(
        values,
        lambda: summed(values, axes, keepdims=False) / n,
        lambda: summed(values * part, axes, keepdims=False) / (n * part),
    )
    if other is not None:
        return add(y, other, relu), mean
    return rectify(y) if relu else y, mean


def far_normalise_backward(
    dy: Array, x: Array, gamma: Array, epsilon: float, y: Array | None
) -> tuple[Array, Array, Array]:
    """:func:`normalise_backward` if σ² overflows, or a sum of deltas."""
    dtype, axes = dy.dtype, tuple(range(x.ndim - 1))
    dy = wide(dy if y is None else rectify_backward(dy, y))  # E14
    with quiet(x):
        x_hat, inverse = standardise(wide(x), axes, epsilon)
        dx = standardise_backward(dy, wide(gamma), x_hat, inverse, axes)
        return dx.astype(dtype, copy=False), channel_sum(dy * x_hat), channel_sum(dy)


def batch_norm_inference(
    x: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    variance: Array,
    *,
    epsilon: float = 1e-5,
    relu: bool = False,
    other: Array | None = None,
) -> tuple[Array, Pullback]:
    """Normalise every channel by a given mean and variance: inference (Ioffe and Szegedy 2015, section 3.1).

    x (N, ..., C) of any rank from 2, the others (C,) -> y like x, all of one floating dtype;
    ``variance`` is at least 0. ``relu`` and ``other`` as in :func:`batch_norm`.
    ``pullback(dy)`` returns ``(dx, dgamma, dbeta, dmean, dvariance)``, and with ``other`` its delta as a sixth.

    >>> import dualnet as dn
    >>> x, one, zero = dn.asarray([[1.0], [3.0]]), dn.asarray([1.0]), dn.asarray([0.0])
    >>> y, pullback = dn.ops.batch_norm_inference(x, one, zero, mean=one, variance=dn.asarray([4.0]))
    >>> dn.to_numpy(y).ravel().round(3)
    array([0., 1.], dtype=float32)
    """
    op = "batch_norm_inference"
    _namespace(op, x, gamma=gamma, beta=beta, mean=mean, variance=variance)
    _check_channels(op, x, gamma=gamma, beta=beta, mean=mean, variance=variance)
    _check_other(op, x, other)
    epsilon = check_epsilon(epsilon, op)

    y = normalised(x, other, mean, variance, gamma, beta, epsilon, relu)
    kept, joined = (y if relu else None), other is not None
    dtypes = x.dtype, gamma.dtype, beta.dtype, mean.dtype, variance.dtype  # those of the gradients

    def pullback(dy: Array | TwoDeltas) -> tuple[Array, ...]:
        """dy (N, ..., C) -> dx (N, ..., C), dgamma, dbeta, dmean, dvariance (C,), and the delta of ``other``."""
        delta = joined_delta(*_two(dy), kept)
        result = rounded_to(dtypes, *inference_backward(delta, x, mean, variance, gamma, epsilon))
        return (*result, delta) if joined else result

    return y, Pullback(op, pullback, y, x=x, mean=mean, variance=variance, gamma=gamma, y=kept).taking_two()


def inference_backward(
    dy: Array, x: Array, mean: Array, variance: Array, gamma: Array, epsilon: float
) -> tuple[Array, Array, Array, Array, Array]:
    """The pullback for a given μ and σ²: (N, ..., C) twice, (C,) … -> dx (N, ..., C), dγ, dβ, dμ, dσ² (C,).

    Only dx is rounded to 16 bits.
    """
    xp, dtype = backend_of(x).xp, dy.dtype
    dy, x, mean, variance, gamma = map(wide, (dy, x, mean, variance, gamma))
    inverse = 1 / xp.sqrt(variance + epsilon)  # 1/s
    scale = gamma * inverse  # γ/s
    dx = dy * scale  # directly
    dgamma = finite_or(  # Σ dy x̂
        dy, lambda: channel_sum(dy * (x - mean)) * inverse, lambda: channel_sum(dy * ((x - mean) * inverse))
    )
    dbeta = channel_sum(dy)  # E12  Σ dy
    dmean = -scale * dbeta  # through the mean: −Σ dx̂ / s
    dvariance = -0.5 * scale * (inverse * dgamma)  # through the variance: −½ Σ dx̂ (x − μ) / s³
    return dx.astype(dtype, copy=False), dgamma, dbeta, dmean, dvariance


def layer_norm(
    x: Array, gamma: Array, beta: Array, *, axis: int | tuple[int, ...] = -1, epsilon: float = 1e-5
) -> tuple[Array, Pullback]:
    """Normalise every example by its own mean and variance along some axes (Ba, Kiros and Hinton 2016, equation 4).

    x (N, ...), gamma and beta of the shape that x has along ``axis`` -> y like x, all of one floating dtype.
    ``axis`` is one axis of x or several (their order does not matter), and never the batch, axis 0.
    ``pullback(dy)`` returns ``(dx, dgamma, dbeta)``.

    >>> import dualnet as dn
    >>> x, one, zero = dn.asarray([[1.0, 3.0], [20.0, 40.0]]), dn.asarray([1.0, 1.0]), dn.asarray([0.0, 0.0])
    >>> y, pullback = dn.ops.layer_norm(x, one, zero)
    >>> dn.to_numpy(y).round(3)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """
    xp = _namespace("layer_norm", x, gamma=gamma, beta=beta)
    axes = check_axes(axis, x.ndim, "layer_norm")
    epsilon = check_epsilon(epsilon, "layer_norm")
    inside = tuple(x.shape[a] for a in axes)
    _check_shapes("layer_norm", inside, f"that of x {tuple(x.shape)} along axis {axis}", gamma=gamma, beta=beta)
    _check_some("layer_norm", x, elements(inside))
    along = tuple(extent if a in axes else 1 for a, extent in enumerate(x.shape))
    others = [a for a in range(x.ndim) if a not in axes]

    dtypes = x.dtype, gamma.dtype, beta.dtype  # those of dx, dgamma, dbeta
    gamma, beta = (xp.reshape(wide(each), along) for each in (gamma, beta))
    x_hat, inverse = standardise(wide(x), axes, epsilon)
    y = narrow(x_hat * gamma + beta, x)

    def pullback(dy: Array) -> tuple[Array, Array, Array]:
        """dy like x -> dx like x, dgamma and dbeta of the shape of gamma."""
        dy = wide(dy)
        dx = standardise_backward(dy, gamma, x_hat, inverse, axes)
        dgamma = summed(dy * x_hat, others, keepdims=False)  # Σ dy x̂
        dbeta = summed(dy, others, keepdims=False)  # E12  Σ dy
        return rounded_to(dtypes, dx, dgamma, dbeta)

    return y, Pullback("layer_norm", pullback, y, x_hat=x_hat, inverse=inverse, gamma=gamma)


def group_norm(x: Array, gamma: Array, beta: Array, *, groups: int, epsilon: float = 1e-5) -> tuple[Array, Pullback]:
    """Normalise each group of neighbouring channels of every example by its mean and variance (Wu and He 2018).

    x (N, ..., C) of any rank from 2, gamma (C,), beta (C,) -> y like x, all of one floating dtype.
    ``groups`` divides C; ``groups=1`` takes the statistics of layer norm over all axes, ``groups=C`` is instance norm.
    ``pullback(dy)`` returns ``(dx, dgamma, dbeta)``.

    >>> import dualnet as dn
    >>> x, one, zero = dn.asarray([[1.0, 3.0, 20.0, 40.0]]), dn.asarray([1.0] * 4), dn.asarray([0.0] * 4)
    >>> y, pullback = dn.ops.group_norm(x, one, zero, groups=2)
    >>> dn.to_numpy(y).round(3)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    xp = _namespace("group_norm", x, gamma=gamma, beta=beta)
    _check_channels("group_norm", x, gamma=gamma, beta=beta)
    epsilon, groups = check_epsilon(epsilon, "group_norm"), check_groups(groups, x.shape[-1], "group_norm")
    _check_some("group_norm", x, elements(x.shape[1:]))
    N, C, M = x.shape[0], x.shape[-1], elements(x.shape[1:-1])
    grouped, axes = (N, M, groups, C // groups), (1, 3)

    dtypes = x.dtype, gamma.dtype, beta.dtype  # those of dx, dgamma, dbeta
    x_hat, inverse = standardise(wide(xp.reshape(x, grouped)), axes, epsilon)  # (N, M, g, C/g), (N, 1, g, 1)
    x_hat = xp.reshape(x_hat, x.shape)  # (N, ..., C)
    y = narrow(x_hat * wide(gamma) + wide(beta), x)

    def pullback(dy: Array) -> tuple[Array, Array, Array]:
        """dy (N, ..., C) -> dx (N, ..., C), dgamma (C,), dbeta (C,)."""
        dy = wide(dy)
        spread = xp.reshape(wide(gamma), (1, 1, groups, C // groups))
        parts = xp.reshape(dy, grouped), spread, xp.reshape(x_hat, grouped)  # (N, M, g, C/g) but for γ
        dx = xp.reshape(standardise_backward(*parts, inverse, axes), dy.shape)
        dgamma = channel_sum(dy * x_hat)  # Σ dy x̂
        dbeta = channel_sum(dy)  # E12  Σ dy
        return rounded_to(dtypes, dx, dgamma, dbeta)

    return y, Pullback("group_norm", pullback, y, x_hat=x_hat, inverse=inverse, gamma=gamma)


def standardise(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array]:
    """x̂ = (x − μ) / s with μ and s along ``axes``; returns x̂ like x, and 1/s with extent 1 along ``axes``."""
    xp = backend_of(x).xp
    with quiet(x):
        x_hat, variance = centred(x, axes)
        s = xp.sqrt(variance + epsilon)
        if not overflowed(variance):
            inverse = 1 / s
            x_hat *= inverse
            return x_hat, inverse
        fine, top = xp.isfinite(variance), xp.max(xp.abs(x), axis=axes, keepdims=True)
        unit = xp.where(fine | ~xp.isfinite(top), 1.0, top)  # divided by it first, no square overflows
        x_hat, variance = centred(x / unit, axes)
        spread = xp.sqrt(xp.where(variance == 0, 1.0, variance))  # if all values are equal, x̂ is 0
        x_hat *= xp.where(fine, 1 / s, 1 / spread)
        return x_hat, xp.where(fine, 1 / s, 1 / xp.maximum(unit * xp.sqrt(variance), epsilon**0.5))


def centred(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """x − μ like x, and σ² with extent 1 along ``axes``."""
    n = elements(tuple(x.shape[a] for a in axes))
    off = x - summed(x, axes) / n
    return off, summed(off * off, axes) / n


def standardise_backward(dy: Array, gamma: Array, x_hat: Array, inverse: Array, axes: tuple[int, ...]) -> Array:
    """dx = (dx̂ − Σ dx̂ / n − x̂ · Σ dx̂ x̂ / n) / s with dx̂ = γ dy, the sums along ``axes``.

    A power of 2 is multiplied into γ and divided out of 1/s: it rounds nothing, and keeps both sums from overflowing.
    """
    n = elements(tuple(x_hat.shape[a] for a in axes))
    part = share(n)
    dx_hat = dy * (gamma * part)
    dx = x_hat * (-summed(dx_hat * x_hat, axes) / n)  # through the variance
    dx += dx_hat  # directly
    dx -= summed(dx_hat, axes) / n  # through the mean
    dx *= inverse * (1.0 / part)
    return dx


# -- a delta that arrives in two parts, and the delta of another branch ------------------------------------------------


def _two(dy: Array | TwoDeltas) -> tuple[Array, Array | None]:
    return dy if type(dy) is TwoDeltas else (dy, None)


# -- checks ------------------------------------------------------------------------------------------------------------


def check_epsilon(epsilon: Any, op: str) -> float:
    """A number above 0, and at most 1."""
    return positive(epsilon, "epsilon", op=op, most=1)


def check_axes(axis: Any, ndim: int, op: str) -> tuple[int, ...]:
    """One axis or several of an array of ``ndim`` axes, as non-negative numbers in ascending order."""
    given = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    axes = sorted(a + ndim if a < 0 else a for a in (integer(a, "axis", op=op, least=-ndim) for a in given))
    if not axes or axes[0] == 0 or axes[-1] >= ndim or len(set(axes)) < len(axes):
        raise ValueError(
            f"{op}: axis={axis!r} does not fit x with its {ndim} axes; expected one or several of "
            f"{', '.join(map(str, range(1, ndim))) or 'none'}, or -1 for the last, each once. "
            "Axis 0 is the batch, whose examples do not see each other."
        )
    return tuple(axes)


def check_groups(groups: Any, channels: int, op: str) -> int:
    """A number of groups that divides the channels."""
    groups = integer(groups, "groups", op=op)
    if channels % groups:
        raise ValueError(f"{op}: groups={groups} must divide the {channels} channels")
    return groups


def _namespace(op: str, x: Array, **vectors: Array) -> Any:
    """Check that the arrays fit together, and return their namespace. If x has 16 bits, vectors may be float32."""
    if backend_of(x) is None or x.dtype.itemsize > 2:
        return namespace(op, x=x, **vectors)
    wider = {name: v for name, v in vectors.items() if getattr(v, "dtype", None) == wide_dtype(x)}
    xp = namespace(op, x=x, **{name: v for name, v in vectors.items() if name not in wider})
    same_backend(op, x=x, **wider)
    return xp


def _check_channels(op: str, x: Array, **vectors: Array) -> None:
    if x.ndim < 2:
        raise ValueError(f"{op}: x has shape {tuple(x.shape)}; expected (N, ..., C), with a batch and channels")
    _check_shapes(op, (x.shape[-1],), f"one for each channel of x {tuple(x.shape)}", **vectors)


def _check_shapes(op: str, expected: tuple[int, ...], meaning: str, **arrays: Array) -> None:
    for name, array in arrays.items():
        if tuple(array.shape) != expected:
            raise ValueError(f"{op}: {name} has shape {tuple(array.shape)}; expected {expected}, {meaning}")


def _check_other(op: str, x: Array, other: Array | None) -> None:
    if other is not None:
        namespace(op, x=x, other=other)
        _check_shapes(op, tuple(x.shape), "that of x", other=other)


def _check_some(op: str, x: Array, values: int) -> None:
    if values == 0:
        raise ValueError(
            f"{op}: x has shape {tuple(x.shape)}, with no values to normalise; every axis but 0 needs at least one"
        )
