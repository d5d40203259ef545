"""A search from a file: ``radixpoint search run.toml``, and the file that every search leaves in its folder.

The file's keys are the options' names, with ``_`` or ``-``, and ``model``; what is given on the command line
overrides them. Paths are relative to the file.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from radixpoint.accelerator.target import named_targets
from radixpoint.errors import DesignError
from radixpoint.files import read_regular, write_whole

FILE = "run.toml"
PATHS = ("model", "images", "calibration", "out", "held_out", "weights", "classes", "labels", "preprocessing",
         "cache", "ranges", "store", "target")  # fmt: skip
"""Options that may name files."""
_MOST = 1 << 20
_TEXTS = ("metric", "input_shape")
_LISTS = ("policy", "fix")
_OF_ONE_RUN = ("replace", "as_json", "out")
"""Not kept: what was said about one run."""


def expanded(arguments: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """Arguments of ``search`` with those of a run file in place of its name.

    Args:
        arguments: after the command's name; the first may be the name of a run file.
        options: parameters of the command, by name, as click has them.

    Raises:
        DesignError: the file cannot be read, or says something that is no option.
    """
    place = next((i for i, text in enumerate(arguments) if text.endswith(".toml")), None)
    if place is None:
        return list(arguments)
    taking = [
        text for option in options.values() if not getattr(option, "is_flag", False) for text in option.opts
    ]
    if place > 0 and arguments[place - 1] in taking:  # it is that option's value
        return list(arguments)
    path = Path(arguments[place])
    rest = [*arguments[:place], *arguments[place + 1 :]]
    given = {name for name, option in options.items() if any(_is_of(text, option.opts) for text in rest)}
    result: list[str] = []
    model: list[str] = []
    seen: set[str] = set()
    for key, value in _read(path).items():
        name = key.replace("-", "_")
        if name in seen:
            raise DesignError(f"{path}: {key!r}: given twice: expected one of the two spellings")
        seen.add(name)
        if name not in options:
            known = ", ".join(sorted(options))
            raise DesignError(f"{path}: {key!r}: no option of search: expected some of {known}")
        if name in given:
            continue
        values = value if isinstance(value, list) else [value]
        if (isinstance(value, list) and name not in _LISTS) or not all(_plain(single) for single in values):
            raise DesignError(f"{path}: {key} = {value!r}: expected text, a number, true or false")
        texts = [_located(str(single), path) if name in PATHS else str(single) for single in values]
        if name == "model":
            model = texts
        elif isinstance(value, bool):
            if not options[name].is_flag:
                raise DesignError(f"{path}: {key} = {json.dumps(value)}: expected a value, it is no switch")
            result += [options[name].opts[0]] * value
        else:
            if options[name].is_flag:
                raise DesignError(f"{path}: {key} = {value!r}: expected true or false")
            result += [part for text in texts for part in (options[name].opts[0], text)]
    return [*result, *rest, *model]


def asked(path: Path) -> dict[str, Any]:
    """What a run file says, option by option, with paths as seen from here.

    Raises:
        DesignError: it cannot be read.
    """
    found: dict[str, Any] = {}
    for key, value in _read(path).items():
        name = key.replace("-", "_")
        if name == "max_images" and not isinstance(value, int):
            raise DesignError(f"{path}: {key} = {value!r}: expected a number")
        if name in (*PATHS, *_TEXTS) and not isinstance(value, str):
            raise DesignError(f"{path}: {key} = {value!r}: expected text")
        found[name] = _located(value, path) if name in PATHS else value
    return found


def _is_of(text: str, names: Sequence[str]) -> bool:
    """Whether an argument gives the option of these names: --policy, --policy=x, -p, -px."""
    short = [name for name in names if len(name) == 2]
    return text.partition("=")[0] in names or any(text.startswith(name) for name in short)


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_regular(path, _MOST).decode("utf-8"))
    except OSError as error:
        raise DesignError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DesignError(f"{path}: not TOML: {error}") from None


def _located(text: str, file: Path) -> str:
    """A path as seen from here; names such as ``torchvision:resnet50``, numbers and ``none`` stay."""
    named = text == "none" or ":" in text or text in named_targets()
    if text.isdecimal() or (named and not (file.parent / text).exists()):
        return text
    return str(file.parent / text)


def keep(folder: Path, parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Write what was asked for into the run folder, every option that is not at its default.

    Raises:
        RunError: it cannot be written.
    """
    lines = ["# radixpoint search run.toml does this search again."]
    for name, value in sorted(parameters.items()):
        plain = list(value) if isinstance(value, tuple | list) else value
        plain = getattr(plain, "value", plain)
        default = defaults.get(name)
        if (
            name in _OF_ONE_RUN
            or plain is None
            or plain == (list(default) if isinstance(default, tuple | list) else default)
        ):
            continue
        if name in PATHS and not (str(plain).isdecimal() or plain == "none" or _is_name(str(plain))):
            plain = str(Path(str(plain)).absolute())
        lines.append(f"{name} = {_toml(plain)}")
    write_whole(folder / FILE, ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))


def _toml(value: Any) -> str:
    """JSON's text, numbers, booleans and lists are TOML's, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _is_name(text: str) -> bool:
    return (":" in text or text in named_targets()) and not Path(text).exists()
