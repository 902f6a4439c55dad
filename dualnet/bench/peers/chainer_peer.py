"""The same step in Chainer, on NumPy: NCHW."""

from __future__ import annotations

from typing import Any


def facts(task: dict) -> dict[str, Any]:
    """Threads, BLAS and NumPy's version."""
    import numpy

    found = getattr(numpy.__config__, "openblas64__info", None) or getattr(numpy.__config__, "openblas_info", {})
    return {
        "threads": task["threads"],
        "blas": ", ".join(found.get("libraries", [])) or "unknown",
        "kernels": f"NumPy {numpy.__version__}",
        "device": "cpu",
    }


def build(task: dict, x: Any, t: Any, weights: dict) -> Any:
    """A step of the network in the task: ``run``, and ``value`` of its result."""
    import chainer
    from chainer import functions as F

    if task["device"] != "cpu":
        raise NotImplementedError("the step in Chainer is for the CPU")
    chain = _chain(task["layers"], weights)
    x = first(x)
    if task["mode"] == "inference":

        def infer() -> Any:
            with chainer.using_config("train", False), chainer.no_backprop_mode():
                return chain(x)

        return infer, lambda y: y.array

    t = t.astype("int32") if task["loss"] == "softmax_cross_entropy" else first(t)
    optimizer = chainer.optimizers.SGD(task["lr"]).setup(chain)

    def loss(x: Any, t: Any) -> Any:
        y = chain(chainer.Variable(x, requires_grad=task["need_dx"]))
        if task["loss"] == "softmax_cross_entropy":
            return F.softmax_cross_entropy(y, t)
        return 0.5 * F.sum(F.squared_difference(y, t)) / len(y)

    def train() -> Any:
        chain.cleargrads()
        value = loss(x, t)
        value.backward()
        optimizer.update()
        return value

    return train, lambda value: value.array


def first(array: Any) -> Any:
    """(N, H, W, C) as (N, C, H, W); anything else as it is."""
    import numpy

    return numpy.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def _chain(layers: list, weights: dict) -> Any:
    """A link with the network's state: what is learned as parameters, running statistics as arrays."""
    import chainer

    class Net(chainer.Chain):
        def __init__(self) -> None:
            super().__init__()
            self.values: dict[str, Any] = {}
            with self.init_scope():
                self._take(layers)

        def _take(self, layers: list) -> None:
            for kind, at in layers:
                if kind == "residual":
                    self._take(at["layer"])
                    self._take(at["shortcut"] if isinstance(at["shortcut"], list) else [])
                for role in ("w", "b", "gamma", "beta"):
                    if at.get(role) is not None:
                        parameter = chainer.Parameter(_laid_out(kind, role, weights[at[role]], at))
                        setattr(self, f"p{len(self.values)}", parameter)
                        self.values[at[role]] = parameter
                for role in ("mean", "variance"):
                    if role in at:
                        self.values[at[role]] = weights[at[role]].copy()

        def forward(self, x: Any) -> Any:
            return _run(layers, self.values, x)

    return Net()


def _laid_out(kind: str, role: str, value: Any, at: dict) -> Any:
    import numpy

    if role == "w" and kind == "conv":
        value = value.transpose(3, 2, 0, 1)  # (k1, k2, C/groups, D) -> (D, C/groups, k1, k2)
    elif role == "w":
        if at["map"]:  # the rows in the order in which (C, H, W) is flattened
            H, W, C = at["map"]
            value = value.reshape(H, W, C, -1).transpose(2, 0, 1, 3).reshape(H * W * C, -1)
        value = value.T
    return numpy.ascontiguousarray(value)


def _run(layers: list, values: dict, x: Any) -> Any:
    for kind, at in layers:
        x = _apply(kind, at, values, x)
    return x


def _apply(kind: str, at: dict, values: dict, x: Any) -> Any:
    from chainer import functions as F

    if kind == "relu":
        return F.relu(x)
    if kind == "flatten":
        return F.reshape(x, (len(x), -1))
    if kind == "mean":
        return F.mean(x, axis=(2, 3))
    if kind == "dropout":
        return F.dropout(x, at["rate"])
    if kind == "pool":
        return F.max_pooling_2d(x, tuple(at["size"]), tuple(at["stride"]), tuple(at["padding"]), cover_all=False)
    if kind == "conv":
        sizes = {"stride": tuple(at["stride"]), "pad": tuple(at["padding"]), "groups": at["groups"]}
        return F.convolution_2d(x, values[at["w"]], values.get(at["b"]), **sizes)
    if kind == "dense":
        return F.linear(x, values[at["w"]], values.get(at["b"]))
    if kind == "norm":
        return _norm(at, values, x)
    if kind == "residual":
        return _run(at["layer"], values, x) + _shortcut(at["shortcut"], values, x)
    raise NotImplementedError(f"the step in Chainer has no {kind}")


def _norm(at: dict, values: dict, x: Any) -> Any:
    import chainer
    from chainer import functions as F

    gamma, beta, mean, variance = (values[at[name]] for name in ("gamma", "beta", "mean", "variance"))
    if not chainer.config.train:
        return F.fixed_batch_normalization(x, gamma, beta, mean, variance, eps=at["epsilon"])
    moving = {"running_mean": mean, "running_var": variance, "decay": at["momentum"]}
    return F.batch_normalization(x, gamma, beta, eps=at["epsilon"], **moving)


def _shortcut(shortcut: Any, values: dict, x: Any) -> Any:
    import numpy
    from chainer import functions as F

    if shortcut is None:
        return x
    if isinstance(shortcut, list):
        return _run(shortcut, values, x)
    kept = x[:, :, :: shortcut["stride"], :: shortcut["stride"]]
    zeros = numpy.zeros((len(kept), shortcut["added"], *kept.shape[2:]), "float32")
    return F.concat((kept, zeros), axis=1)
