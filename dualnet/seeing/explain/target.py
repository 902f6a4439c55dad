"""What to explain: one entry of one array."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """An entry of an array of the layer at ``path`` ("" is the layer itself)."""

    path: str
    name: str  # y, dx, or d and a parameter's name
    index: tuple[int, ...]

    @property
    def parameter(self) -> str | None:
        return None if self.name in ("y", "dx") else self.name[1:]

    def __str__(self) -> str:
        index = ",".join(map(str, self.index))
        return f"{self.path}.{self.name}[{index}]" if self.path else f"{self.name}[{index}]"
