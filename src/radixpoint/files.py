"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from radixpoint.errors import RunError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that after any interruption it is the old one or the new one, never a part.

    Several processes may write the same file at once: what one of them wrote stays.

    Raises:
        RunError: the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None
