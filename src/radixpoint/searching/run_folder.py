"""The folder of a search: new, or its own; what another search found there is not replaced unawares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from radixpoint.errors import RunError
from radixpoint.files import MOST_JSON, is_partial, read_regular, sweep, write_whole
from radixpoint.searching.result import FILE, Result, Settings

RANGES = "ranges.npz"
ANSWER = ("design.json", "network.safetensors", "facts.json")
"""Files of a policy's answer."""
_MARKER = b'{"radixpoint_run": 1}\n'


def open_run_folder(path: Path) -> Path:
    """Make or reopen a run folder.

    Raises:
        RunError: it cannot be written, or holds something else.
    """
    marker = path / "run.json"
    try:
        path.mkdir(parents=True, exist_ok=True)
        others = [item.name for item in path.iterdir() if not is_partial(item)]
        # another search may have begun here a moment ago: what it makes first is the marker
        if others and not marker.exists() and others != [marker.name]:
            raise NotADirectoryError
        sweep(path)
    except (NotADirectoryError, FileExistsError):
        raise RunError(
            f"{path}: exists and is no run folder of radixpoint: expected a new or empty folder"
        ) from None
    except OSError as error:
        raise RunError(f"{path}: cannot be made: {error.strerror}") from None
    if not marker.exists():
        write_whole(marker, _MARKER)
    try:
        ours = read_regular(marker, len(_MARKER)) == _MARKER
    except OSError:
        ours = False
    if not ours:
        raise RunError(f"{marker}: is not radixpoint's: expected a new or empty folder")
    return path


def check_earlier(run: Path, asked: Settings, policies: list[str], grid: bool) -> None:
    """Refuse to replace the result of another search.

    Args:
        run: the run folder.
        asked: what is to be searched, by ``policies`` and, if ``grid``, pair by pair.

    Raises:
        RunError: there is one, with what differs.
    """
    path = run / FILE
    try:
        content = read_regular(path, MOST_JSON)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{path}: cannot be replaced: {error.strerror}") from None
    elsewhere = (
        f"expected another folder (--cache {run / 'cache'} takes over what is known already), or --replace"
    )
    try:
        earlier = msgspec.json.decode(content, type=Result)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if not _looks_like_a_result(content):
            return  # nothing that could be lost
        raise RunError(f"{path}: not a result of this version: {error}: {elsewhere}") from None
    given = {name: _plain(getattr(earlier, name)) for name in Settings.__struct_fields__}
    given |= {"policies": list(earlier.policies), "grid": earlier.grid is not msgspec.UNSET}
    wanted = {name: _plain(getattr(asked, name)) for name in Settings.__struct_fields__}
    wanted |= {"policies": policies, "grid": grid}
    for name, value in wanted.items():
        if value != given[name]:
            raise RunError(
                f"{path}: is of another search: its {name} is {_brief(given[name])}, not {_brief(value)}: "
                f"{elsewhere}"
            )


def _looks_like_a_result(content: bytes) -> bool:
    try:
        document = msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(document, dict) and isinstance(document.get("policies"), dict)


def check_place(folder: Path) -> None:
    """Refuse a place for a policy's answer that holds something else.

    Raises:
        RunError: it does.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is no folder: expected none, or one that a search made")
    for name in ANSWER:
        if (folder / name).exists() and not (folder / name).is_file():
            raise RunError(f"{folder / name}: is no regular file: expected none, or what a search wrote")


def _plain(value: Any) -> Any:
    """As JSON has it; None for what is not there."""
    return None if value is msgspec.UNSET else msgspec.to_builtins(value)


def _brief(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
