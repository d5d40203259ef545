"""What a search has found out so far: records in a folder, keyed by content, each with a checksum.

Any number of searches, processes and machines may share one. A record that is damaged is found out again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from radixpoint.errors import RunError
from radixpoint.files import read_record, sweep, write_record
from radixpoint.measure.outcomes import Outcomes


class Cache:
    """Records in a folder.

    Args:
        folder: made if it is not there; what interrupted writes left in it is removed.
        warned: told of damage.

    Raises:
        RunError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, warned: Callable[[str], None]) -> None:
        self.folder, self.warned = folder, warned
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
        except OSError as error:
            raise RunError(f"{folder}: cannot be made: {error.strerror}") from None
        probe = folder / "probe"
        write_record(probe, b"")
        probe.unlink(missing_ok=True)

    def path(self, kind: str, *key: str) -> Path:
        """File of the record of that kind and key; everything that it depends on has to be in the key."""
        name = hashlib.sha256("\n".join(key).encode()).hexdigest()[:32]
        return self.folder / f"{kind}-{name}"

    def read(self, path: Path, decode: Callable[[bytes], Any]) -> Any:
        """What a record holds, or None: there is none, or it is damaged, which is warned of."""
        try:
            data = read_record(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"{path}: cannot be read: {error.strerror}") from None
        if data is not None:
            try:
                return decode(data)
            except Exception:  # its checksum is right, so another version wrote it otherwise
                data = None
        self.warned(f"{path}: damaged; what it held is found out again")
        return None

    def write(self, path: Path, data: bytes) -> None:
        """Keep a record.

        Raises:
            RunError: it cannot be written.
        """
        write_record(path, data)

    def outcomes(self, path: Path) -> Outcomes | None:
        """Outcomes that a record holds; None if there are none."""
        found: Outcomes | None = self.read(path, Outcomes.decoded)
        return found

    def keep_outcomes(self, path: Path, outcomes: Outcomes) -> None:
        """Keep outcomes."""
        self.write(path, outcomes.encoded())
