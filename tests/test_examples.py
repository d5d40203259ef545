"""The notebooks of ``docs/examples``: their code runs, and prints what it says it does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LINE = re.compile(
    r"(joint|separate): (\d+)(?:, batch normalization (\d+))? bits, drop -?[\d.]+( dB)? \[-?[\d.]+, "
    r"-?[\d.]+\]"
)


def cells(path: Path) -> list[str]:
    return [
        "".join(cell["source"])
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "code"
    ]


def shown(path: Path) -> str:
    document = json.loads(path.read_text())
    outputs = [out for cell in document["cells"] for out in cell.get("outputs", [])]
    assert all(out["output_type"] == "stream" and out["name"] == "stdout" for out in outputs)
    return "".join("".join(out["text"]) for out in outputs)


def check(printed: str) -> None:
    floating, joint, separate = printed.splitlines()
    assert re.fullmatch(r"float: .*\d\d\.\d\d (%|dB)", floating)
    found = [match for match in map(LINE.fullmatch, (joint, separate)) if match is not None]
    assert [match[1] for match in found] == ["joint", "separate"], printed
    assert int(found[1][2]) <= int(found[0][2])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored(path: Path) -> None:
    lines = [line for cell in cells(path) for line in cell.splitlines() if line.strip()]
    assert len(lines) < 20
    check(shown(path))


@pytest.mark.slow("each trains a network and searches")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_examples_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "docs" / "examples"
    place.mkdir(parents=True)
    (tmp_path / "training").symlink_to(FOLDER.parents[1] / "training")
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend("../../training")
    space: dict[str, object] = {}
    for cell in cells(path):
        exec(cell, space)
    check(capsys.readouterr().out)
