"""Which function explains which layer: the index sums of docs/derivation.md, evaluated in float64 without the ops."""

from __future__ import annotations

from collections.abc import Callable

from ...layers.layer import Layer
from . import filters, maps, units
from .run import Use
from .target import Target
from .terms import Account, Term

KINDS = [*filters.KINDS, *maps.KINDS, *units.KINDS]


def account(target: Target, uses: list[Use]) -> Account:
    """Explain an entry. The parameters of a shared layer collect gradients from all of its places."""
    explainer = explainer_of(uses[0].layer)
    accounts = [explainer(target, use) for use in uses]
    first = accounts[0]
    for place, more in enumerate(accounts[1:], start=2):
        first.terms += [Term(t.cells, t.factor, t.what, f"place {place}") for t in more.terms]
    if len(accounts) > 1:
        first.notes.append(f"The layer is shared: it has {len(accounts)} places, whose gradients add up.")
    return first


def explainer_of(layer: Layer) -> Callable[[Target, Use], Account]:
    for kind, explainer in KINDS:
        if isinstance(layer, kind):
            return explainer
    raise ValueError(
        f"explain: {type(layer).__name__} cannot be explained: dualnet does not know what your own layer computes"
    )
