"""Where tensors lie in memory that is reused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Name = TypeVar("Name", str, str | int)


def arena_layout(sizes: Mapping[Name, int], lives: Mapping[Name, tuple[int, int]]) -> dict[Name, int]:
    """Offsets in an arena such that tensors which live at the same time do not overlap; largest first.

    Args:
        sizes: of each tensor, in any unit; the offsets are in the same one.
        lives: first and last moment of each tensor, inclusive.
    """
    placed: dict[Name, int] = {}
    for name in sorted(sizes, key=lambda n: (-sizes[n], lives[n])):
        first, last = lives[name]
        taken = sorted(
            (placed[o], placed[o] + sizes[o]) for o in placed if lives[o][0] <= last and first <= lives[o][1]
        )
        offset = 0
        for begin, end in taken:
            if offset + sizes[name] <= begin:
                break
            offset = max(offset, end)
        placed[name] = offset
    return placed
