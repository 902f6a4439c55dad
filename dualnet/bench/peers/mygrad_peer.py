"""The same step in MyGrad, on NumPy: NCHW. It has no running statistics, since MyGrad's batch norm keeps none."""

from __future__ import annotations

from typing import Any


def facts(task: dict) -> dict[str, Any]:
    """Threads, BLAS and NumPy's version."""
    import numpy

    found: Any = numpy.show_config(mode="dicts") if int(numpy.__version__.split(".")[0]) > 1 else {}
    blas = found.get("Build Dependencies", {}).get("blas", {})
    return {
        "threads": task["threads"],
        "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip(),
        "kernels": f"NumPy {numpy.__version__}",
        "device": "cpu",
    }


def build(task: dict, x: Any, t: Any, weights: dict) -> Any:
    """A step of the network in the task: ``run``, and ``value`` of its result."""
    import mygrad
    from mygrad.nnet.losses import softmax_crossentropy

    if task["device"] != "cpu":
        raise NotImplementedError("the step in MyGrad is for the CPU")
    values, training = _values(task["layers"], weights), task["mode"] == "training"
    learned = [value for value in values.values() if isinstance(value, mygrad.Tensor)]
    x = first(x)
    if not training:

        def infer() -> Any:
            with mygrad.no_autodiff:
                return _run(task["layers"], values, mygrad.tensor(x, copy=False), False)

        return infer, lambda y: y.data

    t = t if task["loss"] == "softmax_cross_entropy" else first(t)

    def train() -> Any:
        start = mygrad.tensor(x, copy=False, constant=not task["need_dx"])
        y = _run(task["layers"], values, start, True)
        if task["loss"] == "softmax_cross_entropy":
            value = softmax_crossentropy(y, t)
        else:
            value = 0.5 * mygrad.sum((y - t) ** 2) / len(x)
        value.backward()
        for w in learned:
            w.data -= task["lr"] * w.grad
        return value

    return train, lambda value: value.data


def first(array: Any) -> Any:
    """(N, H, W, C) as (N, C, H, W); anything else as it is."""
    import numpy

    return numpy.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def _values(layers: list, weights: dict) -> dict[str, Any]:
    """Everything the network has learned, by name: parameters as tensors, running statistics as arrays."""
    import mygrad
    import numpy

    values: dict[str, Any] = {}
    for kind, at in layers:
        if kind == "residual":
            values.update(_values(at["layer"], weights))
            values.update(_values(at["shortcut"], weights) if isinstance(at["shortcut"], list) else {})
        for role in ("w", "b", "gamma", "beta"):
            if at.get(role) is None:
                continue
            value = weights[at[role]]
            if role == "w" and kind == "conv":
                value = value.transpose(3, 2, 0, 1)  # (k1, k2, C/groups, D) -> (D, C/groups, k1, k2)
            elif role == "w" and at["map"]:  # the rows in the order in which (C, H, W) is flattened
                H, W, C = at["map"]
                value = value.reshape(H, W, C, -1).transpose(2, 0, 1, 3).reshape(H * W * C, -1)
            elif role == "b" and kind == "conv":
                value = value.reshape(1, -1, 1, 1)
            values[at[role]] = mygrad.tensor(numpy.ascontiguousarray(value))
        for role in ("mean", "variance"):
            if role in at:
                values[at[role]] = weights[at[role]].reshape(1, -1, 1, 1)
    return values


def _run(layers: list, values: dict, x: Any, training: bool) -> Any:
    for kind, at in layers:
        x = _apply(kind, at, values, x, training)
    return x


def _apply(kind: str, at: dict, values: dict, x: Any, training: bool) -> Any:
    import mygrad
    from mygrad.nnet.activations import relu
    from mygrad.nnet.layers import max_pool

    if kind == "relu":
        return relu(x)
    if kind == "flatten":
        return x.reshape(len(x), -1)
    if kind == "mean":
        return mygrad.mean(x, axis=(2, 3))
    if kind == "pool" and not any(at["padding"]):
        return max_pool(x, tuple(at["size"]), tuple(at["stride"]))
    if kind == "conv" and at["groups"] == 1:
        y = _convolution(at, values[at["w"]], x)
        return y if at["b"] is None else y + values[at["b"]]
    if kind == "dense":
        y = mygrad.matmul(x, values[at["w"]])
        return y if at["b"] is None else y + values[at["b"]]
    if kind == "norm":
        return _norm(at, values, x, training)
    if kind == "residual":
        return _run(at["layer"], values, x, training) + _shortcut(at["shortcut"], values, x, training)
    raise NotImplementedError(f"the step in MyGrad has no {kind} with these options")


def _convolution(at: dict, w: Any, x: Any) -> Any:
    """MyGrad requires that windows fill the padded map. If they do not, the map gets only the zeros that are read."""
    import mygrad
    from mygrad.nnet.layers import conv_nd

    sizes = list(zip(x.shape[2:], w.shape[2:], at["stride"], at["padding"]))
    if all((n + 2 * p - k) % s == 0 for n, k, s, p in sizes):
        return conv_nd(x, w, stride=tuple(at["stride"]), padding=tuple(at["padding"]))
    (H, W), read = x.shape[2:], [(n + 2 * p - k) // s * s + k for n, k, s, p in sizes]
    (p, q), (rows, columns) = at["padding"], (min(read[i], n + at["padding"][i]) for i, n in enumerate((H, W)))
    padded = mygrad.zeros((*x.shape[:2], *read), dtype="float32")
    padded[:, :, p:rows, q:columns] = x[:, :, : rows - p, : columns - q]
    return conv_nd(padded, w, stride=tuple(at["stride"]))


def _norm(at: dict, values: dict, x: Any, training: bool) -> Any:
    from mygrad.nnet.layers import batchnorm

    gamma, beta = values[at["gamma"]], values[at["beta"]]
    if training:
        return batchnorm(x, gamma=gamma, beta=beta, eps=at["epsilon"])
    slope = gamma.reshape(1, -1, 1, 1) / (values[at["variance"]] + at["epsilon"]) ** 0.5
    return (x - values[at["mean"]]) * slope + beta.reshape(1, -1, 1, 1)


def _shortcut(shortcut: Any, values: dict, x: Any, training: bool) -> Any:
    import mygrad
    import numpy

    if shortcut is None:
        return x
    if isinstance(shortcut, list):
        return _run(shortcut, values, x, training)
    kept = x[:, :, :: shortcut["stride"], :: shortcut["stride"]]
    zeros = numpy.zeros((len(kept), shortcut["added"], *kept.shape[2:]), "float32")
    return mygrad.concatenate((kept, zeros), axis=1)
