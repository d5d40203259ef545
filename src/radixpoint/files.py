"""Files that are written whole or not at all, and read only if they are what they should be."""

from __future__ import annotations

import hashlib
import os
import stat
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import msgspec

from radixpoint.errors import RunError

_PARTIAL = ".partial"
_STALE = 3600.0
"""Seconds after which a partial file cannot be one that somebody is writing."""
_ATTEMPTS = 5
_RECORD = b"radixpoint record, SHA-256 "


def shown(name: str) -> str:
    """A file name that any text can hold: bytes that are no UTF-8, and control characters, are escaped."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def read_regular(path: str | Path, most: int) -> bytes:
    """The contents of a regular file of at most ``most`` bytes.

    Raises:
        OSError: no such file, no regular one (a pipe would never end), or a larger one.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "is no regular file", str(path))
    if status.st_size <= most:
        with open(path, "rb") as handle:
            data = handle.read(most + 1)
        if len(data) <= most:
            return data
    raise OSError(0, f"has more than {most:,} bytes, the most that is read", str(path))


MOST_JSON = 1 << 30
"""Bytes of a JSON file of radixpoint's own."""
T = TypeVar("T")


def read_json(path: str | Path, kind: type[T], what: str) -> T:
    """What a JSON file of radixpoint's own holds.

    Args:
        path: of the file.
        kind: its type.
        what: it is, for messages.

    Raises:
        RunError: it cannot be read, or holds something else.
    """
    try:
        return msgspec.json.decode(read_regular(path, MOST_JSON), type=kind)
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RunError(f"{path}: not {what} of this version: {error}") from None


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that is kept as a JSON file of its own; ``what`` names it in messages."""

    what: ClassVar[str]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file.

        Raises:
            RunError: it cannot be read, or holds something else.
        """
        return read_json(path, cls, cls.what)

    def encoded(self) -> bytes:
        """The file's content; the same document gives the same bytes."""
        return msgspec.json.format(msgspec.json.encode(self)) + b"\n"


def is_partial(path: Path) -> bool:
    """Whether a file is one that ``write_whole`` had not finished."""
    return path.name.startswith(".") and path.name.endswith(_PARTIAL)


def sweep(folder: Path) -> None:
    """Remove what interrupted writes left in a folder.

    A write that is under way in another process is safe: it begins again if its file is gone.
    """
    now = time.time()
    for path in folder.iterdir():
        try:
            if is_partial(path) and (_is_ours_and_dead(path) or now - path.stat().st_mtime > _STALE):
                path.unlink(missing_ok=True)
        except OSError:
            continue  # it went on its own, or is not ours to remove


def _is_ours_and_dead(path: Path) -> bool:
    """Whether the writer was a process of this machine that has ended."""
    node, _, rest = path.name.removesuffix(_PARTIAL).rpartition("@")[2].partition("-")
    number, _, started = rest.partition("-")[0].partition("+")
    if node != _node() or not number.isdecimal() or os.name != "posix":
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # not ours to signal, or no number of a process at all
        return False
    return started not in ("", _started(int(number)))  # numbers of processes are used again


def _started(number: int) -> str:
    """When a process began, in ticks of the system's clock; empty where no system tells (only Linux does)."""
    try:
        with open(f"/proc/{number}/stat", "rb") as handle:
            # The 22nd field (proc_pid_stat(5)); the second, the command's name, may hold anything.
            return handle.read().rpartition(b")")[2].split()[19].decode("ascii")
    except (OSError, IndexError):
        return ""


def _node() -> str:
    return f"{uuid.getnode():x}"


def partial_beside(path: Path) -> Path:
    """A new name for what is being written and will replace ``path``; ``sweep`` removes it if that dies."""
    writer = f"{_node()}-{os.getpid()}+{_started(os.getpid())}"
    return path.with_name(f".{path.name}@{writer}-{uuid.uuid4().hex}{_PARTIAL}")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that after any interruption it is the old one or the new one, never a part.

    Several processes, on several machines, may write the same file at once: what one of them wrote stays.
    What is returned from is on the disk: the file and its folder are synchronized.

    Raises:
        RunError: the folder cannot be written; nothing of the file is left.
    """
    if _is_regular(path) is False:
        raise RunError(f"{path}: cannot be written: it is no regular file")
    for attempt in range(_ATTEMPTS):
        partial = partial_beside(path)
        try:
            with partial.open("xb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            partial.replace(path)
            _sync_folder(path.parent)
            return
        except FileNotFoundError as error:  # swept by another process
            if attempt == _ATTEMPTS - 1 or not path.parent.is_dir():
                raise RunError(f"{path}: cannot be written: {error.strerror}") from None
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror}") from None
        finally:
            _remove(partial)


def _is_regular(path: Path) -> bool | None:
    """Whether it is a regular file, None if nothing is there: one look, since others change it meanwhile."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return None


def _remove(partial: Path) -> None:
    with suppress(OSError):  # the folder is gone or read-only: nothing was written there
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a renaming last; where folders cannot be opened (Windows) the system does it."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_record(path: Path, data: bytes) -> None:
    """Write a file of a cache: with a checksum of its content and its name.

    Raises:
        RunError: as ``write_whole``.
    """
    write_whole(path, _RECORD + _checksum(path, data) + b"\n" + data)


def read_record(path: Path) -> bytes | None:
    """What ``write_record`` wrote there; None if that is damaged, or another file's.

    Raises:
        FileNotFoundError: there is none.
    """
    content = b"" if _is_regular(path) is False else path.read_bytes()
    head, newline, data = content.partition(b"\n")
    return data if newline and head == _RECORD + _checksum(path, data) else None


def _checksum(path: Path, data: bytes) -> bytes:
    return hashlib.sha256(path.name.encode() + b"\0" + data).hexdigest().encode()
