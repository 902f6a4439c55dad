"""Formulas that exporters write in small steps, put together again: GELU, SiLU and norms as single nodes.

A pattern describes a formula from its last node: ``("Mul", X, ("Sigmoid", X))`` is x · σ(x). It is compared from the
last node backwards. ``X`` is a tensor, the same one everywhere in the pattern; a number is a constant of that value; a
name in capitals is any constant. Sums and products may have their parts in either order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy

Get = Callable[[str], "numpy.ndarray | None"]


@dataclass(frozen=True)
class Call:
    """A node of the file in plain Python."""

    name: str
    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(node: Any) -> Call:
        if not node.output:
            raise ValueError(f"node {node.name!r} has no output")
        attributes = {one.name: _plain(one) for one in node.attribute}
        return Call(
            node.name or node.output[0], node.op_type, node.domain, tuple(node.input), tuple(node.output), attributes
        )


def _plain(attribute: Any) -> Any:
    """An attribute's value; None for a graph, a tensor and the like, which no supported operator has."""
    kinds = {1: "f", 2: "i", 3: "s", 6: "floats", 7: "ints"}
    if attribute.type not in kinds:
        return None
    value = getattr(attribute, kinds[attribute.type])
    if attribute.type == 3:
        return value.decode("utf-8", "replace")
    return list(value) if attribute.type in (6, 7) else value


CENTRED = ("Sub", "X", ("ReduceMean", "X"))
SQUARES = [("Mul", CENTRED, CENTRED), ("Pow", CENTRED, 2.0)]
ERF = [("Add", ("Erf", ("Mul", "X", math.sqrt(0.5))), 1.0), ("Add", ("Erf", ("Div", "X", math.sqrt(2))), 1.0)]
CUBED = [("Mul", ("Mul", "X", "X"), "X"), ("Pow", "X", 3.0)]
TANH = [
    ("Add", ("Tanh", ("Mul", ("Add", "X", ("Mul", cubed, 0.044715)), math.sqrt(2 / math.pi))), 1.0) for cubed in CUBED
]


def _gated(gates: list[tuple]) -> list[tuple]:
    """½ · x · gate, in any order."""
    return [
        pattern
        for gate in gates
        for pattern in (
            ("Mul", ("Mul", "X", gate), 0.5),
            ("Mul", ("Mul", "X", 0.5), gate),
            ("Mul", "X", ("Mul", gate, 0.5)),
        )
    ]


PATTERNS: dict[str, list[tuple]] = {
    "Softplus": [("Where", ("Greater", "X", 20.0), "X", ("Softplus", "X"))],
    "Silu": [("Mul", "X", ("Sigmoid", "X"))],
    "Gelu": _gated(ERF),
    "Gelu tanh": _gated(TANH),
    "Elu": [("Add", ("Relu", "X"), ("Mul", ("Elu", ("Min", "X", 0.0)), "ALPHA"))],
    "LayerNormalization": [
        ("Add", ("Mul", ("Div", CENTRED, ("Sqrt", ("Add", ("ReduceMean", squares), "EPSILON"))), "GAMMA"), "BETA")
        for squares in SQUARES
    ],
    "GroupNormalization": [
        ("Add", ("Mul", ("Reshape", (norm, ("Reshape", "X", "GROUPED"), "ONES", "ZEROS"), "SHAPE"), "GAMMA"), "BETA")
        for norm in ("LayerNormalization", "InstanceNormalization")
    ],
}


def simplified(calls: list[Call], get: Get) -> list[Call]:
    """The nodes, with one node instead of each formula that is recognised; its parts may be left over."""
    makers: dict[str, Call] = {}
    made = []
    for call in calls:
        makers.update(dict.fromkeys(call.outputs, call))
        found = next(_recognised(call, makers, get), call) if call.operator in ("Mul", "Add", "Where") else call
        made.append(found)
        makers.update(dict.fromkeys(found.outputs, found))
    return made


def _recognised(call: Call, makers: dict[str, Call], get: Get) -> Iterator[Call]:
    for name, patterns in PATTERNS.items():
        for pattern in patterns:
            for bound in _matches(pattern, call.outputs[0], makers, get, {}):
                one = _single(name, call, bound, makers, get)
                if one is not None:
                    yield one


def _matches(
    pattern: Any, name: str, makers: dict[str, Call], get: Get, bound: dict[str, str]
) -> Iterator[dict[str, str]]:
    """All matches of a pattern that ends with this tensor: the values of its letters."""
    if isinstance(pattern, float):
        value = get(name)
        if value is not None and value.size == 1 and math.isclose(float(value.reshape(())), pattern, rel_tol=1e-3):
            yield bound
        return
    if isinstance(pattern, str):
        if bound.get(pattern, name) == name:
            yield {**bound, pattern: name}
        return
    operator, *parts = pattern
    call = makers.get(name)
    if call is None or call.operator != operator or call.domain not in ("", "ai.onnx"):
        return
    exact = operator not in ("ReduceMean",)  # whose axes are its second input, from opset 18 on
    if len(call.inputs) != len(parts) and (exact or not call.inputs):
        return
    orders = [parts, parts[::-1]] if operator in ("Mul", "Add", "Min") and parts[0] != parts[1] else [parts]
    for order in orders:
        found = [{**bound, f"#{operator}": name}]
        for part, source in zip(order, call.inputs):
            found = [more for so_far in found for more in _matches(part, source, makers, get, so_far)]
        yield from found


def _single(name: str, call: Call, bound: dict[str, str], makers: dict[str, Call], get: Get) -> Call | None:
    """One node for the whole formula; None if its constants do not fit."""

    def one(operator: str, *inputs: str, **attributes: Any) -> Call:
        return Call(call.name, operator, "", inputs, call.outputs, attributes)

    x = bound["X"]
    if name in ("Softplus", "Silu", "Gelu", "Gelu tanh"):
        return one(name.split()[0], x, **({"approximate": "tanh"} if "tanh" in name else {}))
    if name == "Elu":
        alpha = get(bound["ALPHA"])
        return None if alpha is None or alpha.size != 1 else one("Elu", x, alpha=float(alpha.reshape(())))
    if name == "LayerNormalization":
        return _layer_norm(one, bound, makers, get)
    return _group_norm(one, bound, makers, get)


def _layer_norm(one: Any, bound: dict[str, str], makers: dict[str, Call], get: Get) -> Call | None:
    mean, epsilon = makers[bound["#ReduceMean"]], get(bound["EPSILON"])
    axes = get(mean.inputs[1]) if len(mean.inputs) > 1 else numpy.array(mean.attributes.get("axes") or [])
    if epsilon is None or epsilon.size != 1 or axes is None or not axes.size:
        return None
    places = sorted(int(axis) for axis in axes.ravel())
    return one(
        "LayerNormalization",
        *(bound["X"], bound["GAMMA"], bound["BETA"]),
        axis=places[0],
        epsilon=float(epsilon.reshape(())),
        axes=places,
    )


def _group_norm(one: Any, bound: dict[str, str], makers: dict[str, Call], get: Get) -> Call | None:
    """(N, C, …) -> (N, groups, …), normalised without γ and β, and back."""
    grouped = get(bound["GROUPED"])
    norm = makers[bound.get("#LayerNormalization") or bound["#InstanceNormalization"]]
    if grouped is None or grouped.size != 3 or norm.attributes.get("axis", -1) not in (-1, 2):
        return None
    ones, zeros = get(bound["ONES"]), get(bound["ZEROS"])
    if ones is None or zeros is None or not (ones == 1).all() or zeros.any():
        return None
    groups, epsilon = int(grouped.ravel()[1]), norm.attributes.get("epsilon", 1e-5)
    parts = bound["X"], bound["GAMMA"], bound["BETA"]
    return one("GroupNormalization", *parts, num_groups=groups, epsilon=epsilon, by_channel=1)
