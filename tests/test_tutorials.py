"""The tutorials' commands, run in order; those marked ``fails`` must end with status 1."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow("it searches")

TUTORIALS = sorted((Path(__file__).parents[1] / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```sh( fails)?\n(.*?)^```$", re.M | re.S)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial(page: Path, tmp_path: Path) -> None:
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "COLUMNS": "120"}
    blocks = BLOCK.findall(page.read_text())
    assert len(blocks) > 3
    said = ""
    for fails, commands in blocks:
        done = subprocess.run(
            ["bash", "-ec", commands],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (1 if fails else 0), f"{commands}\n{done.stdout}{done.stderr}"
        said += done.stdout
    quoted = re.findall(r"(?:reads|ends in) `([^`]+)`", page.read_text())
    assert quoted
    for line in quoted:
        assert line in said, line
    assert "first difference: layer 'conv1'" in said
