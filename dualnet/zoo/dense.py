"""Exercises on whole rows of numbers: losses, dense layers, activations, shortcuts, batch norm.

Each op is wrong on purpose, in one place of its backward pass. It has no type hints and no checks, so that nothing
stands between the reader and the formula.
"""

from __future__ import annotations

from typing import Any

import numpy

from ..parity import loops
from ..shim import namespace
from .exercise import Case, Exercise, by_loops, normal, steps

__all__ = ["EXERCISES"]


def softmax_cross_entropy(y, t):
    """Logits y (N, C), class numbers t (N,) -> E, the mean over the batch. pullback(dE) -> dy."""
    xp = namespace("softmax_cross_entropy", y=y)
    N, C = y.shape
    above = y - xp.max(y, axis=1, keepdims=True)
    log_p = above - xp.log(xp.sum(xp.exp(above), axis=1, keepdims=True))  # (N, C)
    wanted = t[:, None] == xp.arange(C)  # one-hot (N, C)
    E = -xp.sum(log_p * wanted) / N  # E10

    def pullback(dE):
        return dE * (xp.exp(log_p) - wanted)  # E10

    return E, pullback


def _logits(rng: numpy.random.Generator) -> list[Case]:
    return [Case((rng.standard_normal((N, C)), rng.integers(0, C, N)), {}) for N, C in ((5, 4), (3, 2), (8, 6))]


def _loss_by_loops(y: numpy.ndarray, t: numpy.ndarray) -> Any:
    def backward(dE: numpy.ndarray) -> tuple:
        return (dE * loops.softmax_cross_entropy_backward(y, t),)

    return loops.softmax_cross_entropy(y, t), backward


FORGOTTEN_MEAN = Exercise(
    name="forgotten-mean",
    symptom="With batches of 8 the network learns; with 256, at the same learning rate, it explodes.",
    story="""The loss that is printed is a mean over the batch, and looks sane. With small batches the network learns
    well. A bigger machine allows bigger batches, and now the loss is NaN after a few steps; only dividing the learning
    rate by the batch size helps. Somebody writes a rule for that into the team's wiki.""",
    op=softmax_cross_entropy,
    anchors=("E10",),
    hint="E is a mean of N terms. What is the derivative of a mean with respect to one of its terms?",
    fix=(("return dE * (xp.exp(log_p) - wanted)  # E10", "return dE * (xp.exp(log_p) - wanted) / N  # E10"),),
    lesson="""The famous delta softmax(y) − onehot(t) belongs to one example. E is the mean over N of them, so each
    gets 1/N of dE. Without that every gradient of the network is N times too long: its direction is right, so the
    network trains, but at a learning rate that nobody chose. Whatever the forward pass divides by, the backward pass
    divides by too.""",
    truth=_loss_by_loops,
    cases=_logits,
)


def dense(x, w, b):
    """x (N, K), w (K, D), b (D,) -> y (N, D). pullback(dy) -> dx, dw, db."""
    xp = namespace("dense", x=x, w=w, b=b)
    y = x @ w + b  # E9

    def pullback(dy):
        dx = dy @ w.T  # E16
        dw = x.T @ dy  # E16
        db = xp.mean(dy, axis=0)  # E16
        return dx, dw, db

    return y, pullback


def _rows(rng: numpy.random.Generator) -> list[Case]:
    return [Case(normal(rng, (N, K), (K, D), (D,)), {}) for N, K, D in ((4, 3, 5), (7, 2, 2), (2, 6, 3))]


AVERAGED_BIAS = Exercise(
    name="averaged-bias",
    symptom="The network learns, but its biases hardly move from zero.",
    story="""Training works, if a little slower than the paper says. In the histograms of the parameters the weights
    spread out over the epochs as they should, while all biases sit in a thin spike around zero. Larger batches make
    the spike thinner. On images that are brighter than those in training, accuracy is poor.""",
    op=dense,
    anchors=("E16", "E12"),
    hint="The same bias is added to each of the N rows. By how many paths does it reach the loss?",
    fix=(("db = xp.mean(dy, axis=0)  # E16", "db = xp.sum(dy, axis=0)  # E16"),),
    lesson="""What is used N times collects N deltas: broadcasting forward is summing backward, here over the batch
    and in a convolution over every position too (E12). The mean over the batch, if the loss has one, is already
    inside dy; taking it twice makes the bias N times slower than the weights beside it.""",
    truth=by_loops("dense", 3),
    cases=_rows,
    linear=(0, 1, 2),
)


def square_dense(x, w):
    """A layer that keeps its width: x (N, C), w (C, C) -> y (N, C). pullback(dy) -> dx, dw."""
    namespace("square_dense", x=x, w=w)
    y = x @ w  # E9

    def pullback(dy):
        dx = dy @ w  # E16
        dw = x.T @ dy  # E16
        return dx, dw

    return y, pullback


def _square(rng: numpy.random.Generator) -> list[Case]:
    return [Case(normal(rng, (N, C), (C, C)), {}) for N, C in ((3, 4), (5, 2), (2, 5))]


def _square_by_loops(x: numpy.ndarray, w: numpy.ndarray) -> Any:
    return loops.dense(x, w), lambda dy: loops.dense_backward(dy, x, w)[:2]


SQUARE_WEIGHTS = Exercise(
    name="square-weights",
    symptom="One layer learns; the more equal layers are stacked, the worse it gets.",
    story="""With hidden layers of different widths the code stopped at once: the shapes did not match. Now that all of
    them have 64 units, the error is gone. The last layer learns, those in front of it wander about, and a network of
    eight layers is worse than one of two. Every shape in the program is right.""",
    op=square_dense,
    anchors=("E16",),
    hint="Unit k reached output d through w[k, d]. Over which index of w does the sum for dx[n, k] run?",
    fix=(("dx = dy @ w  # E16", "dx = dy @ w.T  # E16"),),
    lesson="""dx[n,k] = Σ_d dy[n,d] · w[k,d]: the sum runs over the *second* index of w, so it is a product with Wᵀ.
    The way back is the transpose of the way there; that is what the word adjoint means. A square matrix has the shape
    of its transpose, so no error message helps. Test with sizes that are all different.""",
    truth=_square_by_loops,
    cases=_square,
    linear=(0, 1),
)


def relu(x):
    """x of any shape -> y = max(0, x). pullback(dy) -> dx."""
    xp = namespace("relu", x=x)
    y = xp.maximum(x, 0.0)  # E7

    def pullback(dy):
        return dy * (dy > 0.0)  # E14

    return y, pullback


def _signed(rng: numpy.random.Generator) -> list[Case]:
    return [Case(normal(rng, shape), {}) for shape in ((4, 5), (2, 3, 4, 2))]


DELTA_MASK = Exercise(
    name="delta-mask",
    symptom="The loss falls for a while, then stalls; yet the saliency maps look wonderfully crisp.",
    story="""A colleague copied the activation from a program that draws what a network looks at. Training starts
    well, then stalls far too early: weights that should shrink never do. The pictures, on the other hand, are the
    best that anyone has seen.""",
    op=relu,
    anchors=("E14", "E7"),
    hint="E14 multiplies the delta by the slope of f. At which number must that slope be taken?",
    fix=(("return dy * (dy > 0.0)  # E14", "return dy * (x > 0.0)  # E14"),),
    lesson="""The gate was opened or closed by x, in the forward pass. What comes back later, positive or negative,
    has no say in it. Masking by dy lets only good news through: that is the rule of the *deconvnet* of Zeiler and
    Fergus (2014), which makes crisp pictures and is not a gradient.""",
    truth=by_loops("relu"),
    cases=_signed,
)


def rectify(x):
    """x of any shape -> y = max(0, x), with slope 0 at 0. pullback(dy) -> dx."""
    xp = namespace("rectify", x=x)
    y = xp.maximum(x, 0.0)  # E7

    def pullback(dy):
        return dy * (x >= 0.0)  # E14

    return y, pullback


def _with_zeros(rng: numpy.random.Generator) -> list[Case]:
    return [Case(normal(rng, (4, 5)), {}), Case((steps(rng, (3, 4, 2)),), {})]


SLOPE_AT_ZERO = Exercise(
    name="slope-at-zero",
    symptom="The network agrees with another framework on photographs, but not on scanned letters.",
    story="""The same weights in two frameworks, the same batches: on photographs the two agree to the last digit for
    thousands of steps. On scanned letters, where white is 0 and all biases are still 0, they part in the first step.
    No gradient check, here or there, finds anything.""",
    op=rectify,
    anchors=("E14",),
    hint="How many units of a scanned letter are exactly 0 before the first ReLU, while the biases are 0?",
    fix=(("return dy * (x >= 0.0)  # E14", "return dy * (x > 0.0)  # E14"),),
    lesson="""At a kink there is no derivative, so somebody must decide, and the docstring did: slope 0 at 0, as in
    E14. Real data are full of exact zeros, so the decision is visible. Any value from 0 to 1 would be a defensible
    choice; two different ones in programs that are supposed to agree are a bug.""",
    truth=by_loops("relu"),
    cases=_with_zeros,
    caught_by=("loops",),
    blind={
        "slopes": "At 0 there is no slope to compare with: the check notices the kink and moves to another point.",
        "pytorch": "The stored inputs are random numbers, and none of them is exactly 0.",
    },
)


def residual(x, w):
    """y = x + relu(x w), with x (N, C), w (C, C). pullback(dy) -> dx, dw."""
    xp = namespace("residual", x=x, w=w)
    h = x @ w  # E9
    y = x + xp.maximum(h, 0.0)  # E7, and the shortcut

    def pullback(dy):
        dh = dy * (h > 0.0)  # E14
        dw = x.T @ dh  # E16
        dx = dh @ w.T  # E16
        return dx, dw

    return y, pullback


def residual_by_loops(x: numpy.ndarray, w: numpy.ndarray) -> Any:
    """y = x + relu(x w) and its gradients, by loops."""
    h = loops.dense(x, w)

    def backward(dy: numpy.ndarray) -> tuple:
        dx, dw, _ = loops.dense_backward(loops.relu_backward(dy, h), x, w)
        return dy + dx, dw

    return x + loops.relu(h), backward


FORGOTTEN_SHORTCUT = Exercise(
    name="forgotten-shortcut",
    symptom="The blocks have shortcuts, yet over fifty layers the gradient vanishes as if they had none.",
    story="""The network with shortcuts is as hard to train as the plain one: the deltas of the first layers are a
    millionth of those of the last. The forward pass is that of the paper, and a block with zero weights is the
    identity, as it should be.""",
    op=residual,
    anchors=("E16", "E14"),
    hint="x reaches y by two paths. How many terms does dx have?",
    fix=(("dx = dh @ w.T  # E16", "dx = dy + dh @ w.T  # E16, and the shortcut"),),
    lesson="""Where paths part in the forward pass, the deltas that come back along them add up. The shortcut's delta
    is dy itself, whole and undamped: that one summand is why residual networks can be deep.""",
    truth=residual_by_loops,
    cases=_square,
)


def ridge(x, w, t, *, decay):
    """E = ½ Σ (x w − t)² / N + ½ λ Σ w² with x (N, K), w (K, D), t (N, D), λ = decay. pullback(dE) -> dx, dw, dt."""
    xp = namespace("ridge", x=x, w=w, t=t)
    N = x.shape[0]
    r = x @ w - t  # (N, D)
    E = 0.5 * xp.sum(r * r) / N + 0.5 * decay * xp.sum(w * w)  # E10, and weight decay

    def pullback(dE):
        dx = r @ w.T / N  # E16
        dw = x.T @ r / N - decay * w  # E16, and weight decay: E17 subtracts it
        dt = -r / N  # E10
        return dE * dx, dE * dw, dE * dt

    return E, pullback


def _regression(rng: numpy.random.Generator) -> list[Case]:
    sizes = ((4, 3, 2, 0.1), (6, 2, 3, 0.5), (3, 5, 1, 2.0))
    return [Case(normal(rng, (N, K), (K, D), (N, D)), {"decay": decay}) for N, K, D, decay in sizes]


def _ridge_by_loops(x: numpy.ndarray, w: numpy.ndarray, t: numpy.ndarray, *, decay: float) -> Any:
    y = loops.dense(x, w)

    def backward(dE: numpy.ndarray) -> tuple:
        delta = loops.mean_squared_error_backward(y, t)
        dx, dw, _ = loops.dense_backward(delta, x, w)
        return dE * dx, dE * (dw + decay * w), -dE * delta

    return loops.mean_squared_error(y, t) + 0.5 * decay * float(numpy.sum(w * w)), backward


UPHILL_DECAY = Exercise(
    name="uphill-decay",
    symptom="The stronger the weight decay, the larger the weights.",
    story="""Weight decay was switched on against overfitting, and the training loss that is printed, penalty
    included, begins to rise after a while. More decay makes it rise sooner. In the end the weights overflow. The
    author of the line points to E17: descent subtracts, so the decay gets a minus sign.""",
    op=ridge,
    anchors=("E17", "E10"),
    hint="Who subtracts: the gradient, or the step w ← w − η · ∂E/∂w that uses it?",
    fix=(("- decay * w  # E16, and weight decay: E17 subtracts it", "+ decay * w  # E16, and weight decay"),),
    lesson="""The pullback returns ∂E/∂w, which points uphill and knows nothing of the step. The one minus sign of
    gradient descent is in E17. A second one in the gradient cancels it, and the step climbs the penalty instead of
    descending it: w ← (1 + η λ) w.""",
    truth=_ridge_by_loops,
    cases=_regression,
)


def batch_norm(x, gamma, beta):
    """x (N, C), gamma and beta (C,) -> y with mean beta and spread gamma. pullback(dy) -> dx, dgamma, dbeta."""
    xp = namespace("batch_norm", x=x, gamma=gamma, beta=beta)
    mean = xp.mean(x, axis=0)
    s = xp.sqrt(xp.mean((x - mean) * (x - mean), axis=0) + 1e-5)
    x_hat = (x - mean) / s
    y = gamma * x_hat + beta

    def pullback(dy):
        dgamma = xp.sum(dy * x_hat, axis=0)
        dbeta = xp.sum(dy, axis=0)  # E12
        dx_hat = dy * gamma
        dx = dx_hat / s  # E14
        return dx, dgamma, dbeta

    return y, pullback


def _batch(rng: numpy.random.Generator) -> list[Case]:
    return [Case(normal(rng, (N, C), (C,), (C,)), {}) for N, C in ((5, 3), (8, 2), (4, 4))]


FROZEN_STATISTICS = Exercise(
    name="frozen-statistics",
    symptom="The weights in front of a batch norm grow and grow, although their scale changes nothing.",
    story="""Multiplying all weights of the layer in front by ten changes nothing in the output, so the gradient of
    these weights should not point along the weights. It does: they grow every epoch, and each step counts for less.
    dγ and dβ have been checked by hand, twice.""",
    op=batch_norm,
    anchors=("E14",),
    hint="E14 is for a function of each number by itself. Which of the y change when one x changes?",
    fix=(
        (
            "dx = dx_hat / s  # E14",
            "dx = (dx_hat - xp.mean(dx_hat, axis=0) - x_hat * xp.mean(dx_hat * x_hat, axis=0)) / s",
        ),
    ),
    lesson="""The mean and the spread are computed from x, so each x moves every y of its channel, in three ways:
    directly, through the mean and through the variance. Shifting or stretching the whole batch leaves y as it is, so
    the two new terms take exactly those directions out of dx. Freezing the statistics is right in inference, where
    they are given numbers, and only there.""",
    truth=by_loops("batch_norm", 3),
    cases=_batch,
    linear=(1, 2),
)


EXERCISES = (
    FORGOTTEN_MEAN,
    AVERAGED_BIAS,
    SQUARE_WEIGHTS,
    DELTA_MASK,
    FORGOTTEN_SHORTCUT,
    UPHILL_DECAY,
    SLOPE_AT_ZERO,
    FROZEN_STATISTICS,
)
