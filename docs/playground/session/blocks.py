"""The layers that can be drawn. Their options come from the signatures, their meanings from the docstrings."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import dualnet as dn

GROUPS = {
    "convolution": ("Conv2D", "DepthwiseConv2D"),
    "pooling": ("MaxPool2D", "AveragePool2D", "L2Pool2D", "GlobalAveragePool2D", "GlobalMaxPool2D"),
    "dense": ("Flatten", "Dense"),
    "norm": ("BatchNorm", "LayerNorm", "GroupNorm"),
    "activation": ("ReLU", "LeakyReLU", "ELU", "GELU", "SiLU", "Tanh", "Sigmoid"),
    "dropout": ("Dropout", "SpatialDropout2D"),
}
FIRST = {"filters": 8, "kernel_size": 3, "pool_size": 2, "units": 10, "groups": 2, "rate": 0.25}
"""What a new block has where the signature has no default."""
SAID = {
    "filters": "How many filters, and so output channels.",
    "depth_multiplier": "How many filters for each channel.",
    "units": "How many outputs: one weighted sum of all inputs for each.",
    "use_bias": "Add one number to each output channel.",
    "keepdims": "Keep height and width, as 1 × 1.",
    "center": "Add a learned number, beta, to each channel.",
    "scale": "Multiply each channel by a learned number, gamma.",
    "alpha": "The size of what is passed on below zero.",
    "approximate": "Use the formula with tanh, which is almost the same.",
    "rate": "The share that is dropped in training; from 0 to below 1.",
    "epsilon": "A small number, so that nothing is divided by 0.",
    "beta_1": "The share of the mean gradient that stays at each step.",
    "beta_2": "The share of the mean square that stays at each step.",
    "rho": "The share of the mean square that stays at each step.",
    "centered": "Subtract the square of the mean gradient.",
    "nesterov": "Look one step ahead along the momentum.",
    "weight_decay": "How strongly the weights are drawn towards 0.",
    "clip_norm": "The most that the length of all gradients together may be.",
    "clip_value": "The most that each element of a gradient may be.",
}
"""What an option means, where its docstring tells of the whole layer or of several options in one sentence."""
OPTIMIZERS = ("Adam", "AdamW", "SGD", "RMSProp")

Described = dict[str, Any]


def catalogue() -> dict[str, list[Described]]:
    """All blocks by group, and the optimizers."""
    blocks = [described(kind, getattr(dn, kind), group) for group, kinds in GROUPS.items() for kind in kinds]
    rules = [described(kind, getattr(dn, kind), "optimizer") for kind in OPTIMIZERS]
    return {"blocks": blocks, "optimizers": rules}


def described(kind: str, made: type, group: str) -> Described:
    """One block: what it is, and its options in the order of its signature."""
    return {"kind": kind, "group": group, "summary": summary(made), "options": options(made)}


def options(made: type) -> list[Described]:
    found = []
    for name, parameter in list(inspect.signature(made).parameters.items()):
        required = parameter.default is inspect.Parameter.empty
        if name == "lr" or (name == "no_decay"):  # the learning rate stands by itself
            continue
        default = FIRST.get(name) if required else parameter.default
        meant = meaning(made, name)
        found.append(
            {
                "name": name,
                "default": default,
                "required": required,
                "form": form(default),
                "meaning": meant,
                "choices": choices(meant, default),
            }
        )
    return found


def form(default: Any) -> str:
    """How an option is entered: a switch, a number, or a text that is read as Python."""
    return "switch" if isinstance(default, bool) else "number" if isinstance(default, float) else "text"


def choices(meant: str, default: Any) -> list[str]:
    """The words in quotes that the meaning offers."""
    words = re.findall(r'"([a-z_]+)"', meant)
    return list(dict.fromkeys([*([default] if words and isinstance(default, str) else []), *words]))


def value(entered: Any) -> Any:
    """What was entered, as Python: ``"(2, 1)"`` is a pair, ``"same"`` a word.

    >>> value("(2, 1)"), value("same"), value("3"), value(0.5)
    ((2, 1), 'same', 3, 0.5)
    """
    if isinstance(entered, list):
        return tuple(value(part) for part in entered)
    if not isinstance(entered, str):
        return entered
    try:
        return ast.literal_eval(entered.strip())
    except (SyntaxError, ValueError):
        return entered.strip()


# -- meanings ----------------------------------------------------------------------------------------------------------


def summary(made: type) -> str:
    """The first sentence of the docstring, in plain text."""
    return plain(sentences(inspect.getdoc(made) or "")[0])


def meaning(made: type, name: str) -> str:
    """What is said of an option: the sentences that name it, of the class, of what it is built on, of its op."""
    if name in SAID:
        return SAID[name]
    marked = rf"\b{name}\b" if "_" in name else rf"``{name}\b"  # a word such as ``mode`` counts only as code
    for text in documents(made):
        told = [sentence for sentence in sentences(text) if re.search(marked, sentence)]
        if told:
            return plain(" ".join(told))
    return ""


def documents(made: type) -> list[str]:
    """The docstrings that may tell of an option, the nearest first."""
    texts = [vars(kind).get("__doc__") or "" for kind in made.__mro__ if kind.__module__.startswith("dualnet")]
    ops = re.findall(r":func:`dualnet\.ops\.(\w+)`", texts[0])
    return [inspect.cleandoc(text) for text in [*texts, *((getattr(dn.ops, op).__doc__ or "") for op in ops)]]


def sentences(text: str) -> list[str]:
    """The sentences of a docstring, without its examples and formulas."""
    prose = text.partition(">>>")[0]
    paragraphs = [part for part in prose.split("\n\n") if not part.startswith("    ")]
    whole = " ".join(" ".join(part.split()) for part in paragraphs)
    return re.split(r"(?<=[.])\s+(?=[A-Z`])", whole.strip())


def plain(text: str) -> str:
    """Without the marks of reStructuredText; code stands between single backticks.

    >>> plain("See :func:`dualnet.ops.relu`: ``max(0, x)``")
    'See relu: `max(0, x)`'
    """
    text = re.sub(r":\w+:`(?:dualnet\.)?(?:ops\.)?([^`]+)`", r"\1", text)
    return text.replace("``", "`").strip()
