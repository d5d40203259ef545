"""A search in a process that is killed, or finds the disk full, at a chosen moment of its writing.

``python kills.py FOLDER KIND NUMBER``: KIND is ``none``, ``kill`` or ``full``; NUMBER counts the moments:
each file that is written has four, before it is opened, with half of it written, before it is renamed, and
after.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

import networks
from radixpoint import files
from radixpoint.searching.criterion import Criterion
from radixpoint.searching.task import search

MOMENTS_A_FILE = 4


def labelled() -> tuple[Any, Any, Any]:
    graph = networks.balanced()
    return graph, networks.labelled(graph, 750, 5), networks.labelled(graph, 32, 6)


class Moments:
    """Counts moments of writing, and at one of them lets happen what was asked."""

    def __init__(self, kind: str, number: int) -> None:
        self.kind, self.number, self.seen = kind, number, 0

    def __call__(self) -> None:
        self.seen += 1
        if self.seen - 1 != self.number:
            return
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def plant(moments: Moments) -> None:
    """Let every write of a whole file pass by its moments."""
    real_open, real_replace = Path.open, Path.replace

    def opened(self: Path, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        if mode != "xb":
            return real_open(self, mode, *arguments, **more)
        moments()
        handle = real_open(self, mode, *arguments, **more)

        class Halved:
            def __enter__(self) -> Halved:
                return self

            def __exit__(self, *exception: Any) -> None:
                handle.close()

            def write(self, data: bytes) -> int:
                handle.write(data[: len(data) // 2])
                handle.flush()
                moments()
                handle.write(data[len(data) // 2 :])
                return len(data)

            def flush(self) -> None:
                handle.flush()

            def fileno(self) -> int:
                return int(handle.fileno())

        return Halved()

    def replaced(self: Path, target: Any) -> Path:
        moments()
        result = real_replace(self, target)
        if moments.kind == "kill":
            moments()  # the file is there: a full disk no longer matters
        else:
            moments.seen += 1
        return result

    files.Path.open, files.Path.replace = opened, replaced  # type: ignore[method-assign,assignment]


def main(folder: str, kind: str, number: int) -> None:
    moments = Moments(kind, number)
    plant(moments)
    graph, images, calibration = labelled()
    search(
        graph,
        images,
        calibration,
        folder,
        Criterion(limit=4.0),
        policies=("joint", "separate"),
        word_lengths=(6, 8, 10, 12),
        bn_start=12,
    )
    print(moments.seen)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
