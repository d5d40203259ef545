"""The tutorials' commands and Python, run in order; those marked ``fails`` must end with status 1."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow("it searches")

TUTORIALS = sorted((Path(__file__).parents[1] / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(sh|python)( fails)?\n(.*?)^```$", re.M | re.S)
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "COLUMNS": "120",
    "MPLBACKEND": "agg",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's run folder: a page's first command goes on from it."""
    folder = tmp_path_factory.mktemp("tutorials") / "run"
    command = ["radixpoint", "demo", "--out", folder]
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)
    return folder


def blocks_of(page: Path) -> list[tuple[list[str], bool]]:
    """Commands with whether they must fail. A page's Python is one program: a block sees those before it."""
    found: list[tuple[list[str], bool]] = []
    program = ""
    for language, fails, text in BLOCK.findall(page.read_text()):
        if language == "sh":
            found.append((["bash", "-ec", text], bool(fails)))
        else:
            program += text
    return [*found, *([([sys.executable, "-W", "ignore", "-c", program], False)] if program else [])]


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial(page: Path, tmp_path: Path, run: Path) -> None:
    if "radixpoint demo --out run" in page.read_text():
        shutil.copytree(run, tmp_path / "run")
    blocks, said = blocks_of(page), ""
    assert blocks
    for command, fails in blocks:
        done = subprocess.run(
            *(command,), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert done.returncode == (1 if fails else 0), f"{command[-1]}\n{done.stdout}{done.stderr}"
        said += done.stdout
    quoted = re.findall(r"(?:reads|ends in|further down) `([^`]+)`", page.read_text())
    assert quoted
    for line in quoted:
        assert line in said, f"{line} not in {said[-3000:]}"
