"""What stands out in a trace, in words: exploding, vanishing and dead layers, and what to try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...markup import figure

__all__ = ["Finding", "find"]

EXPLODED, VANISHED = 1e3, 1e-3
"""Activations are compared with the spread of the input, deltas with the norm of the delta at the output."""
LARGE_UPDATE, SMALL_UPDATE = 0.1, 1e-6
DEAD = 0.4
"""From this fraction of dead channels on, a layer is a finding."""
ENOUGH = 16
"""With fewer values per channel, a channel of zeros means nothing: a healthy unit is 0 half the time."""

WEIGHTS = "initializer='he_normal' (before ReLU) or 'glorot_normal' (before tanh and sigmoid)"


@dataclass(frozen=True)
class Finding:
    """A sentence about one layer, and the pass that it belongs to: ``"forward"`` or ``"backward"``."""

    layer: str  # its name in the network
    way: str
    text: str


def find(rows: Sequence[Any], input_spread: float, error: float, batch: int, lr: float) -> list[Finding]:
    """The findings about a trace's rows, in the order of the pass."""
    found = [*_not_finite(rows)]
    if not found:  # NaN makes every other number meaningless
        found += _activations(rows, input_spread)
        found += _dead(rows, batch)
        found += _deltas(rows, error)
        found += _updates(rows, lr)
    return found


def _not_finite(rows: Sequence[Any]) -> list[Finding]:
    for row in rows:
        if not row.finite:
            why = "the input or the weights hold such values, or numbers overflow here"
            advice = "Look at the input and the weights, and try a smaller learning rate or clip_norm=1.0."
            return [Finding(row.name, "forward", f"{row.label}: NaN or infinity, first here: {why}. {advice}")]
    for row in reversed(rows):
        if row.delta_norm is not None and row.delta_norm - row.delta_norm != 0.0:
            advice = "Look at the targets and the loss, and try float32 or smaller inputs."
            return [
                Finding(row.name, "backward", f"{row.label}: the deltas hold NaN or infinity, first here. {advice}")
            ]
    return []


def _activations(rows: Sequence[Any], input_spread: float) -> list[Finding]:
    if not input_spread:
        return []
    judged = [row for row in rows if not row.squashed and not (row.container and not row.joins)]
    large = [row for row in judged if row.spread / input_spread > EXPLODED]
    small = [row for row in judged if row.spread / input_spread < VANISHED]
    found = []
    if large:
        text = f"activations explode: {_spread(large[0], input_spread)}"
        found.append(_first(large, "forward", text, f"Try inputs scaled to about 1, {WEIGHTS}, or dn.BatchNorm()."))
    if not small or small[0].dead == 1.0:  # if it is dead, another finding says so
        return found
    if small[0].spread == 0:
        text = "the output is the same number everywhere"
        advice = f"Weights that start at 0 do this; if that is not intended, try {WEIGHTS}."
    else:
        text = f"activations vanish: {_spread(small[0], input_spread)}"
        advice = f"Try {WEIGHTS}, dn.BatchNorm(), or dn.Residual around layers."
    return [*found, _first(small, "forward", text, advice)]


def _spread(row: Any, input_spread: float) -> str:
    times = figure(row.spread / input_spread, 2)
    return f"their spread is {figure(row.spread)}, {times} times that of the input"


def _dead(rows: Sequence[Any], batch: int) -> list[Finding]:
    found = []
    for row in rows:
        values = batch
        for extent in row.output_shape[:-1]:
            values *= extent
        if row.dead is None or values < ENOUGH or row.dead < DEAD:
            continue
        channels, kind = row.output_shape[-1], "channels" if len(row.output_shape) > 1 else "units"
        count = f"all {channels}" if row.dead == 1 else f"{round(row.dead * channels)} of {channels}"
        text = (
            f"{row.label}: dead: {count} {kind} ({row.dead:.0%}) are 0 for the whole batch, pass no delta back, and "
            "the weights before them cannot learn. Try a smaller learning rate, dn.LeakyReLU(), or dn.BatchNorm() "
            "before it."
        )
        found.append(Finding(row.name, "forward", text))
    return found


def _deltas(rows: Sequence[Any], error: float) -> list[Finding]:
    back = [row for row in reversed(rows) if row.delta_norm is not None and not (row.container and not row.joins)]
    if not back:
        return []
    if error == 0:
        text = (
            "no delta comes back from the loss: every answer in this batch is already right, or the loss is flat here."
        )
        return [Finding(back[0].name, "backward", f"{back[0].label}: {text}")]
    found = []
    large = [row for row in back if row.delta_norm > EXPLODED * error]
    if large:
        text = f"deltas explode: their norm is {_norm_and_times(large[0], error)} that at the output"
        found.append(
            _first(large, "backward", text, f"Try clip_norm=1.0 in the optimizer, dn.BatchNorm(), or {WEIGHTS}.")
        )
    small = [row for row in back if row.delta_norm < VANISHED * error]
    if small and small[0].delta_norm == 0:
        text = "no delta arrives"
        advice = "Nothing before it can learn; look at the layer after it (a dead ReLU, weights that are all 0)."
        found.append(_first(small, "backward", text, advice))
    elif small:
        text = f"deltas vanish: their norm is {_norm_and_times(small[0], error)} that at the output"
        advice = f"Try dn.ReLU() instead of sigmoid and tanh, {WEIGHTS}, dn.BatchNorm(), or dn.Residual around layers."
        found.append(_first(small, "backward", text, advice))
    return found


def _norm_and_times(row: Any, error: float) -> str:
    return f"{figure(row.delta_norm)}, {figure(row.delta_norm / error, 2)} times"


def _updates(rows: Sequence[Any], lr: float) -> list[Finding]:
    known = [row for row in rows if row.update_ratio is not None]
    found = []
    large = [row for row in known if row.update_ratio > LARGE_UPDATE]
    if large:
        worst = max(large, key=lambda row: row.update_ratio)
        others = _others(len(large) - 1, "too")
        text = f"the next step changes the weights by {worst.update_ratio:.0%} of their size{others}"
        advice = f"0.1 % to 1 % is usual; try a smaller learning rate (it is {lr:g})."
        found.append(Finding(worst.name, "backward", f"{worst.label}: {text}. {advice}"))
    small = [row for row in known if 0 < row.update_ratio < SMALL_UPDATE]
    if small:
        text = f"the next step changes the weights by {figure(small[0].update_ratio, 2)} of their size: hardly at all"
        found.append(_first(small, "backward", text, f"Try a larger learning rate (it is {lr:g})."))
    return found


def _first(rows: Sequence[Any], way: str, text: str, advice: str) -> Finding:
    """A finding about the first of several layers, with the number of the others."""
    further = _others(len(rows) - 1, "after it" if way == "forward" else "before it")
    return Finding(rows[0].name, way, f"{rows[0].label}: {text}{further}. {advice}")


def _others(count: int, where: str) -> str:
    return f" (and {count} more {'layer' if count == 1 else 'layers'} {where})" if count else ""
