"""A stage imports only from stages before it; every operator is complete and documented."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from radixpoint.engines import reference
from radixpoint.engines.blas import _Compiler
from radixpoint.engines.floating import _ONNX
from radixpoint.ops import LAYERS, STEPS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "radixpoint"

ORDER = [
    ["errors"],
    ["formats", "files", "elementary", "intervals"],
    ["domains"],
    ["arith"],
    ["ops"],
    ["ir"],
    ["engines.floating"],
    ["importers.compare", "importers.onnx_constants"],
    ["importers.onnx", "importers.resnet", "importers.torch"],
    ["importers"],
    ["data.preprocessing"],
    ["data.imageset"],
    ["data.sources"],
    ["data"],
    ["outcomes"],
    ["calibrate", "patches"],
    ["equalize"],
    ["design"],
    ["codes"],
    ["sites"],
    ["output_error"],
    ["binary_points"],
    ["sums"],
    ["lower"],
    ["arena", "engines.boundary"],
    ["engines.reference", "engines.blas"],
    ["engines.native"],
    ["engines"],
    ["stand_in"],
    ["refine"],
    ["quantize"],
    ["storage", "cost", "synthesis"],
    ["allocate"],
    ["policies"],
    ["evaluate"],
    ["searching.criterion"],
    ["searching.watcher", "searching.cache", "searching.line"],
    ["searching.judge"],
    ["searching.strategies"],
    ["searching.search"],
    ["searching"],
    ["demo"],
    ["export.tools"],
    ["export.plan"],
    ["export.source", "export.onnx_graph", "export.folder", "export.passes"],
    ["export.machine"],
    ["export.c", "export.hls4ml", "export.onnx", "export.qonnx", "export.vectors", "export.verilog"],
    ["export.hls"],
    ["export"],
    ["hardware"],
    ["cli", ""],
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        found[name] = path
    return found


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
                if a.name.startswith("radixpoint")
            }
    return found


def backwards(name: str, source: str) -> list[str]:
    return [used for used in imports(source) if LEVEL[used] >= LEVEL[name]]


def test_every_module_has_its_place() -> None:
    assert set(modules()) == set(LEVEL)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_backwards(name: str) -> None:
    assert backwards(name, modules()[name].read_text()) == []


def test_the_layering_test_catches_a_planted_import() -> None:
    assert backwards("formats", "from radixpoint.searching import search") == ["searching"]
    assert backwards("cost", "import radixpoint.storage") == ["storage"]
    assert backwards("formats", "from radixpoint import searching") == ["searching"]


def test_the_oracle_imports_nothing_of_the_package() -> None:
    assert imports((ROOT / "tests" / "oracle.py").read_text()) == set()


def test_torch_is_imported_only_when_used() -> None:
    import subprocess
    import sys

    code = "import sys, radixpoint.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", STEPS)
def test_every_step_is_complete(name: str) -> None:
    rounds = STEPS[name].bounds is None
    assert rounds == (name in ("cast", "divide"))
    assert hasattr(_Compiler, f"_{name}")
    assert name in reference._EXACT or name in ("cast", "divide", "add", "offset")
    assert re.search(rf"^### `{name}`", (ROOT / "docs" / "ops.md").read_text(), re.M), (
        f"docs/ops.md: no {name}"
    )


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_complete(name: str) -> None:
    assert name in _ONNX
    assert re.search(rf"^### `{name}` layer", (ROOT / "docs" / "ops.md").read_text(), re.M), (
        f"docs/ops.md: no {name}"
    )
