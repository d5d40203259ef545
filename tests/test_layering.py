"""A stage imports only from stages before it; every operator is complete and documented."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "radixpoint"

PAGE = ROOT / "docs" / "architecture.md"
WINGS = re.findall(r"^\| `(\w+)(?:\.py|/)` \|", PAGE.read_text(), re.M)
"""In the order of the page: a wing imports only from wings before it."""
DOORS = {("ir.network", "engines"), ("engines.floating", "measure")}
"""Imports the other way that the page tells of."""


def modules() -> dict[str, Path]:
    """Every module by name within the package; the package itself loads names when they are used."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        found[name] = path
    return {name: path for name, path in found.items() if name not in ("", "__main__")}


def imports(source: str) -> set[str]:
    """Modules of radixpoint that a source imports, by name within the package."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "radixpoint":
            # the extension module comes before everything and imports nothing
            found |= {alias.name for alias in node.names} - {"_native"}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "radixpoint":
            found.add(node.module.removeprefix("radixpoint").lstrip("."))
        if isinstance(node, ast.Import):
            found |= {
                a.name.removeprefix("radixpoint").lstrip(".")
                for a in node.names
                if a.name.split(".")[0] == "radixpoint"
            }
    return found


def wing(name: str) -> int:
    return WINGS.index(name.split(".", maxsplit=1)[0])


def backwards(name: str, source: str) -> list[str]:
    return [used for used in imports(source) if wing(used) > wing(name) and (name, used) not in DOORS]


def test_the_page_names_every_wing() -> None:
    assert {name.split(".")[0] for name in modules()} == set(WINGS)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_backwards(name: str) -> None:
    assert backwards(name, modules()[name].read_text()) == []


def test_no_circle_of_imports() -> None:
    found = {name: imports(path.read_text()) for name, path in modules().items()}
    for name, door in DOORS:
        assert door in found[name], "a door that nobody uses"
        found[name].remove(door)
    list(graphlib.TopologicalSorter(found).static_order())
    found["arithmetic.formats"].add("arithmetic.cast")
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter(found).static_order())


def test_the_layering_test_catches_a_planted_import() -> None:
    assert backwards("arithmetic.formats", "from radixpoint.searching import search") == ["searching"]
    assert backwards("ir.graph", "import radixpoint.measure.calibrate") == ["measure.calibrate"]
    assert backwards("ir.graph", "from radixpoint import searching") == ["searching"]
    assert backwards("searching.judge", "from radixpoint.ir.graph import Graph") == []


@pytest.mark.parametrize("number", range(len(WINGS)), ids=WINGS)
def test_a_wing_loads_no_wing_below_it(number: int) -> None:
    code = (
        f"import sys, radixpoint.{WINGS[number]};"
        "print(*{name.split('.')[1] for name in sys.modules if name.startswith('radixpoint.')})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(said.split()) - {"_native"}
    assert WINGS[number] in loaded
    assert loaded <= set(WINGS[: number + 1])


def test_the_oracle_imports_nothing_of_the_package() -> None:
    assert imports((ROOT / "tests" / "oracle.py").read_text()) == set()


def test_torch_is_imported_only_when_used() -> None:
    code = "import sys, radixpoint.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_picture_is_of_this_code() -> None:
    spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    house = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(house)
    assert house.wings() == WINGS
    shown = house.digest(house.reduced(house.imported()))
    picture = (ROOT / "docs" / "architecture.svg").read_text()
    assert shown in picture, "python docs/house.py draws it again"
    assert house.reduced({"a": [], "b": ["a"], "c": ["a", "b"]}) == {"a": [], "b": ["a"], "c": ["b"]}
