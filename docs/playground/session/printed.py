"""What a reader's code prints: shown up to a limit, and kept no longer than that."""

from __future__ import annotations

import io


class Printed(io.StringIO):
    """A file for ``print`` that forgets what comes after its first ``most`` characters: an endless print ends there."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.room, self.more = most, False

    def write(self, text: str) -> int:
        kept = text[: self.room]
        self.room -= len(kept)
        self.more |= len(kept) < len(text)
        super().write(kept)
        return len(text)

    def shown(self) -> str:
        """All of it, or its beginning and a mark that there was more."""
        return self.getvalue() + ("\n… and more" if self.more else "")
