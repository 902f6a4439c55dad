"""The file to which a network is written, from the user's path."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["AS_FLOAT32", "target_of"]

AS_FLOAT32 = (
    'Build the network again, call init(input_shape, dtype="float32"), and then load_state_dict(net.state_dict()).'
)
"""What to do about a network in a dtype that cannot be written."""


def target_of(path: str | os.PathLike, op: str, endings: tuple[str, ...], *, any_ending: bool = False) -> Path:
    """The file, with the first of the suffixes if the path has none.

    Raises ``ValueError`` for a folder, and for a path with a different suffix unless ``any_ending``.

    >>> target_of("digits", "to_c", (".h", ".hpp")).name
    'digits.h'
    """
    target = Path(os.fsdecode(path)).expanduser()
    if target.is_dir() or os.fsdecode(path).endswith(("/", os.sep)):
        example = str(target / f"model{endings[0]}")
        raise ValueError(f"{op}: {str(path)!r} is a folder; expected a file, such as {example!r}")
    if not target.suffix:
        return target.with_name(f"{target.name}{endings[0]}")
    if target.suffix not in endings and not any_ending:
        raise ValueError(f"{op}: {str(path)!r} ends with {target.suffix!r}; expected {' or '.join(endings)}")
    return target
