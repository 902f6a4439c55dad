"""Networks as scikit-learn's estimators: in pipelines, grid searches and cross-validation.

The classes derive from scikit-learn's, so this file needs it at once. ``dn.sklearn`` loads the file when you first
use it. Inside, ``sklearn`` is the library: imports are absolute.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import numpy

from .. import optimizers
from ..arguments import flag, integer, positive
from ..history import History
from ..layers import Dense, ReLU, Sequential
from ..layers.layer import Layer
from ..ops import losses
from ..ops.activation import log_softmax, softmax
from ..ops.pullback import LossPullback
from ..shim import Array, asarray, backend_of, to_numpy
from ..training import EarlyStopping, fit, predict

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets, unique_labels
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(
        'dualnet.sklearn needs scikit-learn, 1.6 or later: pip install "dualnet[sklearn]"', name=error.name
    ) from error

__all__ = ["DualNetClassifier", "DualNetRegressor"]

FLOATS = (numpy.float64, numpy.float32)
"""A float32 X stays float32; any other becomes float64, as in scikit-learn. The network has the same dtype."""


class Examples(NamedTuple):
    """Inputs x (N, F), targets t (N,) or (N, targets), and weights (N,) in float64, or None if all count alike."""

    x: Any
    t: Any
    weights: Any = None

    @classmethod
    def checked(cls, owner: str, x: Any, t: Any, sample_weight: Any) -> Examples:
        """Checked examples. Those with weight 0 are left out, so batches and batch norm do not see them either."""
        if sample_weight is None:
            return cls(x, t)
        weights = _check_sample_weight(sample_weight, x, dtype=numpy.float64)
        if weights.min() < 0 or not weights.any():
            raise ValueError(f"{owner}: sample_weight must be at least 0, and not 0 everywhere; got {weights}")
        return cls(x, t, weights).part(weights > 0)

    def part(self, chosen: Any) -> Examples:
        return Examples(*(None if array is None else array[chosen] for array in self))

    def relative(self) -> Examples:
        """With a mean weight of 1, so that weights change neither the size of the loss nor the learning rate."""
        w = self.weights
        return self._replace(weights=None if w is None or (w == w[0]).all() else w / w.mean())

    def packed(self) -> Examples:
        """With the weights as the last column of the targets, where :func:`weighted` finds them."""
        weights = numpy.ones(len(self.x)) if self.weights is None else self.weights
        return Examples(self.x, numpy.column_stack([self.t, weights]).astype(self.x.dtype, copy=False))

    def folded(self, net: Layer) -> tuple[Any, Any]:
        """x as the network reads it, and t."""
        return self.x.reshape(len(self.x), *net.input_shape), self.t  # type: ignore[misc]


class _DualNet(BaseEstimator):
    """Base class of both estimators: it creates, trains and stores a network by scikit-learn's rules."""

    loss_by_default: str
    outputs_are: str  # what the outputs of the network mean, in messages
    net_: Layer
    optimizer_: optimizers.Optimizer
    history_: History
    _seed: int

    def __init__(
        self,
        layers: Any = None,
        *,
        input_shape: tuple[int, ...] | None = None,
        loss: str | Callable[..., Any] | None = None,
        epochs: int = 100,
        batch_size: int = 64,
        optimizer: str | optimizers.Optimizer = "adam",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.layers = layers
        self.input_shape = input_shape
        self.loss = loss
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    # -- what was trained

    @property
    def n_iter_(self) -> int:
        """How many epochs the network was trained for, in all calls together."""
        return self.history_.epochs

    @property
    def loss_curve_(self) -> list[float]:
        """The mean loss of each epoch of training."""
        return self.history_["loss"]

    # -- training

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """If the block raises an error before it has trained an epoch, restore the estimator."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            if vars(self).get("history_") is before.get("history_"):
                self.__dict__ = before
            raise

    def _goes_on(self) -> bool:
        """Does ``fit`` continue with the network that it trained before?"""
        return flag(self.warm_start, "warm_start", op=type(self).__name__) and hasattr(self, "net_")

    def _checked(self, X: Any, reset: bool, **y: Any) -> Any:
        """X (and y) as scikit-learn checks them. Rows only: images are folded by ``input_shape``."""
        shape = tuple(getattr(X, "shape", ()))
        if len(shape) > 2:
            raise ValueError(
                f"{type(self).__name__}: X has shape {shape}; expected rows (n_samples, n_features). Pass "
                f"X.reshape(len(X), -1), and input_shape={shape[1:]} to the estimator: it folds each row back."
            )
        return validate_data(self, X, dtype=FLOATS, reset=reset, **y)

    def _fit(self, data: Examples, outputs: int, going_on: bool) -> Self:
        """All epochs of ``fit``, with or without examples held out."""
        owner = type(self).__name__
        epochs = integer(self.epochs, "epochs", op=owner)
        started = self._started(data.x, outputs, going_on)
        held_out = None
        if flag(self.early_stopping, "early_stopping", op=owner):
            kept, out = train_test_split(
                numpy.arange(len(data.x)),
                test_size=positive(self.validation_fraction, "validation_fraction", op=owner, most=0.999),
                random_state=started[-1] % 2**32,
                stratify=data.t if data.t.ndim == 1 else None,
            )
            data, held_out = data.part(kept), data.part(out).relative()
        return self._train(*started, data.relative(), held_out, epochs, going_on)

    def _partial_fit(self, data: Examples, outputs: int) -> Self:
        """One epoch. Weights are used as they are, since those of later calls are unknown."""
        if self.early_stopping:
            raise ValueError(
                f"{type(self).__name__}: partial_fit trains for one epoch, so it cannot stop early. Call fit, or set "
                "early_stopping=False."
            )
        going_on = hasattr(self, "net_")
        return self._train(*self._started(data.x, outputs, going_on), data, None, 1, going_on)

    def _started(self, X: Any, outputs: int, going_on: bool) -> tuple[Layer, optimizers.Optimizer, int]:
        """The network, its optimizer and the seed: the existing ones, or new ones."""
        if going_on:
            return self.net_, self.optimizer_, self._seed
        seed = _seed(self.random_state)
        optimizer = copy.deepcopy(optimizers.get(self.optimizer))
        if optimizer.steps:
            raise ValueError(
                f"{type(self).__name__}: this optimizer has already trained another network ({optimizer.steps} steps). "
                f"Pass a new one: {type(optimizer).__name__}(...)."
            )
        return self._network(X, outputs, seed), optimizer, seed

    def _network(self, X: Any, outputs: int, seed: int) -> Layer:
        """A new network, initialised for rows like X. Layers that are already trained keep what they have learned."""
        made, shape = self._made(outputs), self._shape(X)
        net = copy.deepcopy(made)  # what the user passed is never trained
        net = net if isinstance(net, Layer) else Sequential(list(net))
        fresh = all(layer.input_shape is None for _, layer in net.walk())
        try:
            net.init(shape, seed=seed, dtype=X.dtype.name if fresh else None, keep=True)
        except ValueError as error:
            if self.input_shape is not None:
                raise
            raise ValueError(
                f"{error} To fold each row of X {X.shape} into an image, pass input_shape=(height, width, channels) to "
                f"{type(self).__name__}."
            ) from error
        if net.output_shape(shape) != (outputs,):
            raise ValueError(
                f"{type(self).__name__}: the network returns outputs of shape {net.output_shape(shape)}; expected "
                f"({outputs},), {self.outputs_are}. End it with dn.Dense({outputs}), or pass a function that gets this "
                "number and returns the network."
            )
        self._check_end(net)
        return net

    def _made(self, outputs: int) -> Any:
        """``layers`` as a network or a list of layers."""
        layers = self.layers
        if layers is None:
            if self.input_shape is not None:
                raise ValueError(
                    f"{type(self).__name__}: input_shape={self.input_shape} folds rows for layers such as dn.Conv2D, "
                    "but layers=None builds a dense network. Pass layers too, or leave out input_shape."
                )
            draw = "glorot_uniform"  # as in MLPClassifier: smaller than He's, which a few examples could not unlearn
            return [Dense(100, initializer=draw), ReLU(), Dense(outputs, initializer=draw)]
        if callable(layers) and not isinstance(layers, Layer):
            layers = layers(outputs)
        if not isinstance(layers, (Layer, list, tuple)):
            raise TypeError(
                f"{type(self).__name__}: layers must be a list of layers, a network, or a function that takes the "
                f"number of outputs and returns one of these; got {layers!r}"
            )
        return layers

    def _shape(self, X: Any) -> tuple[int, ...]:
        """The shape of one example, as the network sees it."""
        if self.input_shape is None:
            return (X.shape[1],)
        if not isinstance(self.input_shape, (tuple, list)):
            raise TypeError(
                f"{type(self).__name__}: input_shape must be the shape of one example, such as (28, 28, 1); got "
                f"{self.input_shape!r}"
            )
        shape = tuple(integer(extent, "input_shape", op=type(self).__name__) for extent in self.input_shape)
        if math.prod(shape) != X.shape[1]:
            raise ValueError(
                f"{type(self).__name__}: input_shape={shape} takes {math.prod(shape)} numbers, but each row of X has "
                f"{X.shape[1]}"
            )
        return shape

    def _check_end(self, net: Layer) -> None:
        """Raise ``ValueError`` if the last layer does what the estimator does itself."""

    def _train(
        self,
        net: Layer,
        optimizer: optimizers.Optimizer,
        seed: int,
        data: Examples,
        held_out: Examples | None,
        epochs: int,
        going_on: bool,
    ) -> Self:
        """Train, and store the result, however the training ended."""
        loss = used = self.loss_by_default if self.loss is None else self.loss
        if data.weights is not None or (held_out is not None and held_out.weights is not None):
            used = functools.partial(weighted, loss=losses.get(loss), labels=data.t.ndim == 1)
            data, held_out = data.packed(), None if held_out is None else held_out.packed()
        x, t = data.folded(net)
        before = self.history_ if going_on else History()
        stop = [] if held_out is None else [EarlyStopping(self.n_iter_no_change, monitor="val_loss")]
        net.history = History()
        try:
            fit(
                net,
                x,
                t,
                epochs=before.epochs + epochs,
                initial_epoch=before.epochs,
                batch_size=self.batch_size,
                optimizer=optimizer,
                loss=used,
                validation_data=None if held_out is None else held_out.folded(net),
                callbacks=stop,
                seed=seed,
                verbose=self.verbose,
            )
        finally:
            net.loss = loss
            if net.history.epochs:
                self.net_, self.optimizer_, self._seed = net, optimizer, seed
                self.history_ = History({name: before.get(name, []) + new for name, new in net.history.items()})
        return self

    def _outputs(self, X: Any) -> numpy.ndarray:
        """The outputs of the network for rows X (N, F): (N, outputs)."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        return predict(self.net_, Examples(X, None).folded(self.net_)[0])


class DualNetClassifier(ClassifierMixin, _DualNet):
    """A network as a scikit-learn classifier.

    ``layers`` is a list of layers or a network, of which each ``fit`` trains a copy (layers that were trained before
    continue from there); or a function that gets the number of classes and returns one of these, such as
    ``dn.models.lenet5``. The network has one output for each class: LOGITS, no softmax. ``None`` means a dense network
    with 100 hidden units, like that of ``MLPClassifier``. ``input_shape`` folds each row of X into the shape that the
    first layer reads, such as (28, 28, 1).

    The network computes in X's dtype: float32, or float64 for everything else. It does not rescale the features, so put
    a ``StandardScaler`` before it.

    ``loss``, ``epochs``, ``batch_size``, ``optimizer`` and ``verbose`` are those of :func:`dualnet.fit`; the optimizer
    is copied. ``early_stopping=True`` holds out ``validation_fraction`` of the examples, stops when their loss has not
    improved for ``n_iter_no_change`` epochs, and keeps the best weights. ``warm_start=True`` lets ``fit`` continue
    from the last one. An integer as ``random_state`` is the ``seed`` of :func:`dualnet.fit`.

    Afterwards ``net_`` is the network, ``classes_`` are the labels in the order of its outputs, ``history_`` has the
    figures of all epochs, ``loss_curve_`` the losses, ``n_iter_`` their number, and ``optimizer_`` the optimizer.

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> import dualnet as dn
    >>> X, y = load_iris(return_X_y=True)
    >>> net = dn.sklearn.DualNetClassifier(epochs=50, optimizer=dn.Adam(lr=0.01), random_state=0)
    >>> make_pipeline(StandardScaler(), net).fit(X, y).score(X, y) > 0.95
    True
    """

    classes_: numpy.ndarray
    loss_by_default = "softmax_cross_entropy"
    outputs_are = "one for each class"

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on rows X (n_samples, n_features) and labels y (n_samples,), numbers or strings.

        ``sample_weight`` (n_samples,) says how much each example counts, at least 0. Only ratios matter: the loss is
        Σ wᵢ Eᵢ / Σ wᵢ. A weight of 0 leaves the example out.
        """
        with self._all_or_nothing():
            going_on = self._goes_on()
            X, y = self._labelled(X, y, reset=not going_on)
            classes = numpy.unique(y)
            if going_on and not numpy.array_equal(classes, self.classes_):
                raise ValueError(
                    f"DualNetClassifier: warm_start=True continues with the classes {self.classes_}; y has {classes}. "
                    "Set warm_start=False, or call partial_fit for examples of some of the classes."
                )
            self.classes_ = classes
            return self._fit(
                Examples.checked(type(self).__name__, X, self._numbers(y), sample_weight), len(classes), going_on
            )

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train one epoch on these examples, and continue from there the next time.

        ``classes`` are all labels that will ever appear; the first call needs them. ``sample_weight`` is used as it is:
        an example with weight 1 counts like one without a weight.
        """
        with self._all_or_nothing():
            first = not hasattr(self, "net_")
            X, y = self._labelled(X, y, reset=first)
            if first and classes is None:
                raise ValueError("DualNetClassifier: classes must be passed on the first call to partial_fit.")
            if not first and classes is not None and not numpy.array_equal(unique_labels(classes), self.classes_):
                raise ValueError(f"DualNetClassifier: classes={classes}; expected the same as before, {self.classes_}")
            if first:
                self.classes_ = unique_labels(classes)
            return self._partial_fit(
                Examples.checked(type(self).__name__, X, self._numbers(y), sample_weight), len(self.classes_)
            )

    def _labelled(self, X: Any, y: Any, reset: bool) -> tuple[Any, Any]:
        X, y = self._checked(X, reset, y=y, multi_output=True)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        return X, y

    def _numbers(self, y: Any) -> Any:
        """The labels as numbers of classes: places in ``classes_``."""
        places = numpy.searchsorted(self.classes_, y)
        unknown = self.classes_[numpy.minimum(places, len(self.classes_) - 1)] != y
        if unknown.any():
            raise ValueError(
                f"DualNetClassifier: y has the labels {numpy.unique(y[unknown])}; expected only {self.classes_}. Pass "
                "all labels as classes in the first call of partial_fit."
            )
        return places

    def _check_end(self, net: Layer) -> None:
        if losses.ends_with(net, softmax):
            raise ValueError(
                "DualNetClassifier: the network ends with Softmax, but the loss and predict_proba apply it themselves. "
                "Leave out the layer."
            )

    def predict(self, X: Any) -> numpy.ndarray:
        """The likeliest label of each row: (n_samples,)."""
        places = self._outputs(X).argmax(axis=1)
        return self.classes_[places]

    def predict_proba(self, X: Any) -> numpy.ndarray:
        """The probability of each class: (n_samples, n_classes), in the order of ``classes_``."""
        return to_numpy(softmax(asarray(self._outputs(X), backend="numpy"))[0])

    def predict_log_proba(self, X: Any) -> numpy.ndarray:
        """The logarithm of each probability, exact even if a probability is too small for a floating number."""
        return to_numpy(log_softmax(asarray(self._outputs(X), backend="numpy"))[0])


class DualNetRegressor(RegressorMixin, _DualNet):
    """A network as a scikit-learn regressor, for one target or several.

    It takes the same arguments as :class:`DualNetClassifier`, and its network has one output for each target. ``loss``
    is the squared error by default; ``"huber"`` is less sensitive to outliers. A ``TransformedTargetRegressor`` scales
    targets that are far from 1.

    >>> from sklearn.datasets import make_regression
    >>> from sklearn.preprocessing import scale
    >>> import dualnet as dn
    >>> X, y = make_regression(200, 5, noise=1.0, random_state=0)
    >>> net = dn.sklearn.DualNetRegressor(epochs=50, optimizer=dn.Adam(lr=0.01), random_state=0)
    >>> net.fit(X, scale(y)).score(X, scale(y)) > 0.95
    True
    """

    loss_by_default = "mean_squared_error"
    outputs_are = "one for each target"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on rows X (n_samples, n_features) and targets y (n_samples,) or (n_samples, n_targets).

        ``sample_weight`` (n_samples,) says how much each example counts, at least 0. Only ratios matter: the loss is
        Σ wᵢ Eᵢ / Σ wᵢ. A weight of 0 leaves the example out.
        """
        with self._all_or_nothing():
            going_on = self._goes_on()
            X, t = self._targets(X, y, first=not going_on)
            return self._fit(Examples.checked(type(self).__name__, X, t, sample_weight), t.shape[1], going_on)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train one epoch on these examples, and continue from there the next time.

        ``sample_weight`` is used as it is: an example with weight 1 counts like one without a weight.
        """
        with self._all_or_nothing():
            X, t = self._targets(X, y, first=not hasattr(self, "net_"))
            return self._partial_fit(Examples.checked(type(self).__name__, X, t, sample_weight), t.shape[1])

    def _targets(self, X: Any, y: Any, first: bool) -> tuple[Any, Any]:
        """X, and y as (N, targets) in X's dtype."""
        X, y = self._checked(X, first, y=y, multi_output=True, y_numeric=True)
        with numpy.errstate(over="ignore"):
            t = y.reshape(len(y), -1).astype(X.dtype)
        if not numpy.isfinite(t).all():
            raise ValueError("DualNetRegressor: y holds numbers too large for float32. Scale it, or pass a float64 X.")
        if first:
            self._one_target = y.ndim == 1
            self._targets_of_y = t.shape[1]
        elif t.shape[1] != self._targets_of_y:
            raise ValueError(
                f"DualNetRegressor: y has {t.shape[1]} targets for each example; expected {self._targets_of_y}, as in "
                "the first call. To start again, create a new estimator."
            )
        return X, t

    def predict(self, X: Any) -> numpy.ndarray:
        """The target of each row, (n_samples,), or (n_samples, n_targets) if y was given so."""
        y = self._outputs(X)
        return y[:, 0] if self._one_target else y


# -- weights of examples -----------------------------------------------------------------------------------------------


def weighted(y: Array, packed: Array, *, loss: Callable[..., Any], labels: bool = False) -> tuple[Array, LossPullback]:
    """``E = Σ wᵢ Eᵢ / N``: the loss of each of N examples times its weight.

    y (N, K); packed (N, targets + 1) holds the targets and, in the last column, the weights; with ``labels`` there is
    one target, a class number. ``loss`` is a mean over the examples, so no row of its dy depends on another example:
    ``∂E/∂y`` is that of ``loss``, each row times wᵢ.

    >>> import dualnet as dn
    >>> y, packed = dn.asarray([[1.0], [2.0]]), dn.asarray([[0.0, 3.0], [0.0, 1.0]])
    >>> loss, pullback = weighted(y, packed, loss=dn.losses.mean_squared_error)
    >>> float(dn.to_numpy(loss)), dn.to_numpy(pullback()).tolist()  # (3 · 1/2 + 1 · 4/2) / 2
    (1.75, [[1.5], [1.0]])
    """
    xp = backend_of(y).xp
    t, w = packed[:, :-1], packed[:, -1].astype(y.dtype)
    t = t[:, 0].astype("int64") if labels else t
    _, way_back = losses.unchecked(loss)(y, t) if labels else loss(y, t)  # the estimator has created the labels
    value = xp.sum(w * _each(loss, y, t)) / y.shape[0]

    def pullback(dloss: float | Array) -> Array:
        return way_back(dloss) * w[:, None]

    return value, LossPullback("weighted", pullback, value, w=w)


def _each(loss: Callable[..., Any], y: Array, t: Array) -> Array:
    """The loss of each example (N,). For an unknown loss, each row becomes its own batch, which takes longer."""
    xp = backend_of(y).xp
    if loss is losses.mean_squared_error:
        return 0.5 * xp.sum((y - t.astype(y.dtype)) ** 2, axis=1)  # E10
    if loss is losses.softmax_cross_entropy and t.ndim == 1:
        chosen = t[:, None] == xp.arange(y.shape[1])
        return -xp.sum(xp.where(chosen, log_softmax(y)[0], 0.0), axis=1)  # E10
    return xp.stack([loss(y[place : place + 1], t[place : place + 1])[0] for place in range(y.shape[0])])


def _seed(random_state: Any) -> int:
    """The seed of the weights and of the batches."""
    drawn = check_random_state(random_state)
    return int(random_state) if isinstance(random_state, (int, numpy.integer)) else int(drawn.randint(2**31 - 1))
