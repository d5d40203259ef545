"""Costs against hand-computed cases; what Yosys counted, against Yosys."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from pathlib import Path

import pytest
from typer.testing import CliRunner

import exports
import networks
from radixpoint.accelerator import synthesis
from radixpoint.accelerator.cost import (
    add_energy,
    cost,
    memory_energy,
    multiplier_cost,
    multiply_energy,
    products_per_dsp,
)
from radixpoint.accelerator.hardware import accelerator_cost
from radixpoint.cli.main import app, main
from radixpoint.errors import ExportError
from radixpoint.ir.network import IntGraph
from radixpoint.ir.storage import save_network


def small() -> IntGraph:
    """3 x 6 x 6 -> convolution to 4 channels, batch normalization, ReLU, fully connected to 7."""
    n = networks.Net(1, (3, 6, 6))
    x = n.simple("relu", n.bn(n.conv("input", 4)))
    flat = n.simple("flatten", n.conv(x, 2, 6, pads=(0, 0, 0, 0)))
    return exports.quantized(n.graph(n.fc(flat, 2, 7)), conv=6, bn=9)


def test_counts_by_hand() -> None:
    network = small()
    found = cost(network)
    first, second, last = 4 * 36 * 3 * 9, 2 * 4 * 36, 7 * 2
    assert found.macs == first + second + last
    assert found.scalings == 4 * 36
    assert (found.conv_bits, found.scale_bits) == ((6, 6), (9, 9))
    assert found.multiplier_cost == 36 * found.macs + 81 * found.scalings == multiplier_cost(network)
    assert found.weight_bits == 6 * (4 * 27 + 2 * 4 * 36 + 14)
    bias = sum(p.data.size for k, p in network.parameters.items() if k.endswith("/bias"))
    assert found.parameter_bits == 9 * (4 + 4 + bias)
    # the image and the convolution's operand beside it, or the operand beside the wide result
    assert found.activation_bits == max(6 * 108 + 6 * 144, 6 * 144 + 6 * 2)
    expected = sum(
        products * (0.2 * a * b / 64 + 0.03 * network.tensors[name].format.word_length / 8)
        for name, products, a, b in (
            (next(s.name for s in network.steps if s.op == "conv"), first, 6, 6),
            ([s.name for s in network.steps if s.op == "conv"][1], second, 6, 6),
            (next(s.name for s in network.steps if s.op == "dense"), last, 6, 6),
            (next(s.name for s in network.steps if s.op == "scale"), 144, 9, 9),
        )
    )
    assert found.energy == pytest.approx(expected)


def test_energies_at_the_published_points() -> None:
    """Horowitz 2014: 8 and 32 bits; memories of 8 KB, 32 KB and 1 MB."""
    assert multiply_energy(8, 8) == 0.2
    assert multiply_energy(32, 32) == pytest.approx(3.1, rel=0.05)
    assert add_energy(8) == 0.03
    assert add_energy(32) == pytest.approx(0.1, rel=0.25)
    assert [memory_energy(8 * size, 64) for size in (8192, 8193, 32768, 1 << 20, 1 << 22)] == [
        10, 20, 20, 100, 100,
    ]  # fmt: skip


def test_products_of_a_dsp_block() -> None:
    """The published cases and the steps between."""
    expected = {4: 4, 5: 4, 6: 2, 8: 2, 9: 1, 10: 1, 18: 1, 19: Fraction(1, 2)}
    assert {n: products_per_dsp(n, n) for n in expected} == expected
    assert products_per_dsp(18, 27) == products_per_dsp(27, 18) == 1
    assert [products_per_dsp(n, n, symmetric=True) for n in (8, 9, 10)] == [2, 2, 1]


def ends(bits: int, symmetric: bool = False) -> list[int]:
    return [-(1 << (bits - 1)) + symmetric, (1 << (bits - 1)) - 1]


def fields(value: int, width: int, count: int) -> list[int]:
    """Signed numbers of ``width`` bits, the lowest first, that lie side by side in ``value``."""
    result = []
    for _ in range(count):
        low = (value + (1 << (width - 1))) % (1 << width) - (1 << (width - 1))
        result.append(low)
        value = (value - low) >> width
    assert value == 0
    return result


@pytest.mark.parametrize("symmetric", [False, True])
def test_packed_products_come_apart(symmetric: bool) -> None:
    """At the ends of every pair of widths that shares a block: the ports hold them, fields are right."""
    for x, w in itertools.product(range(2, 19), repeat=2):
        small, large = sorted((x, w))
        if products_per_dsp(x, w, symmetric) == 2:
            width = small + large - symmetric
            for p, q, y in itertools.product(ends(small, symmetric), ends(small, symmetric), ends(large)):
                packed = (p << width) + q
                assert -(1 << 26) <= packed < 1 << 26
                assert fields(packed * y, width, 2) == [q * y, p * y]
        if products_per_dsp(x, w, symmetric) == 4:
            width = small + large
            for p, q, r, s in itertools.product(ends(large), ends(large), ends(small), ends(small)):
                wide, narrow = (p << 2 * width) + q, (r << width) + s
                assert -(1 << 26) <= wide < 1 << 26
                assert -(1 << 17) <= narrow < 1 << 17
                assert fields(wide * narrow, width, 4) == [q * s, q * r, p * s, p * r]


def test_accelerator_by_hand() -> None:
    network = small()
    found = accelerator_cost(network, 4)
    # each tile: its weights once and every place times its window; the rest is waiting
    taps = 36 * 9 * 1 + 36 + 2 * 1
    assert taps < found.clocks < 20 * taps
    assert found.busy == cost(network).macs / (16 * found.clocks)
    assert found.memories["weights"] == (9 + 36 + 2) * 16 * 6
    assert found.memories["narrow"] >= (36 + 36) * 4 * 6
    assert found.energy["off-chip parameters"] > found.energy["multiply-accumulate"] > 0
    assert found.dsps == 16 / 2 + 4


# ------------------------------------------------------------------------------------------ synthesis


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RADIXPOINT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow("it synthesizes")
@pytest.mark.parametrize(
    ("module", "flow"),
    [("multiply-accumulate", "gates"), ("cast", "lut"), ("batch normalization", "gates"), ("cast", "gates"),
     ("multiply-accumulate", "dsp")],
)  # fmt: skip
def test_what_is_shipped_is_what_yosys_says(module: str, flow: str) -> None:
    part = synthesis.module_table(6)[module]
    shipped, now = synthesis.synthesize(*part, flow), synthesis.synthesize_now(*part, flow)
    if shipped.yosys == now.yosys:
        assert shipped == now
    else:  # another version may map a little differently
        assert sum(now.cells.values()) == pytest.approx(sum(shipped.cells.values()), rel=0.2)


def test_everything_is_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table needs no Yosys; a change of a module makes what is shipped unusable, not wrong."""
    monkeypatch.setattr(synthesis, "synthesize_now", lambda *part: pytest.fail(f"not shipped: {part}"))
    for word in range(4, 17):
        for part in synthesis.module_table(word).values():
            for flow in synthesis.FLOWS:
                assert synthesis.synthesize(*part, flow).cells
    for x, w in itertools.product(range(2, 13), repeat=2):  # of two word lengths, in either order
        for unit in ("gates", "luts"):
            assert synthesis.multiplier_area(x, w, unit) == synthesis.multiplier_area(w, x, unit) > 0
    before = synthesis.result_key("rx_cast", {}, "gates")
    monkeypatch.setattr(synthesis, "rtl", lambda name: "// another")
    assert synthesis.result_key("rx_cast", {}, "gates") != before


def test_results_are_cached(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = ("rx_add", {"IN": 3, "OUT": 6, "SHIFT": 3}, "gates")
    first = synthesis.synthesize(*part)
    assert first.gate_equivalents > 0
    (kept,) = own_cache.rglob("*.json")
    with monkeypatch.context() as patch:
        patch.setattr(synthesis, "synthesize_now", lambda *part: pytest.fail("not cached"))
        assert synthesis.synthesize(*part) == first
    kept.write_text("{")
    assert synthesis.synthesize(*part) == first


def test_gates_by_hand() -> None:
    """Two inverters, a NAND, a flip-flop; a cell that has no area is an error, not nothing."""
    cells = {"$_NOT_": 2, "$_NAND_": 1, "$_DFF_P_": 1}
    assert synthesis.Synthesis(cells, "0").gate_equivalents == pytest.approx(2 * 0.67 + 1 + 5.67)
    with pytest.raises(KeyError):
        _ = synthesis.Synthesis({"$_DLATCH_P_": 1}, "0").gate_equivalents


def test_fewer_bits_are_smaller() -> None:
    for name in synthesis.module_table(4):
        parts = [synthesis.module_table(word)[name] for word in range(4, 17)]
        gates = [synthesis.synthesize(*part, "gates").gate_equivalents for part in parts]
        assert gates == sorted(gates)
        assert gates[0] < 0.5 * gates[-1]
    for unit in ("gates", "luts"):  # a mapper may lose a gate or two, not a bit's worth
        areas = {(x, w): synthesis.multiplier_area(x, w, unit) for x in range(2, 13) for w in range(2, 13)}
        assert all(areas[x + 2, w] > areas[x, w] for x, w in areas if x <= 10)
    assert (
        synthesis.multiplier_area(6, 6, "luts")
        == synthesis.synthesize(*synthesis.module_table(6)["multiply-accumulate"], "lut").luts
    )


# --------------------------------------------------------------------------------------- command line


@pytest.mark.slow("it synthesizes")
def test_command(tmp_path: Path) -> None:
    network = small()
    save_network(network, tmp_path / "n.safetensors")
    said = CliRunner().invoke(app, ["cost", str(tmp_path / "n.safetensors"), "--lanes", "2", "--json"])
    assert said.exit_code == 0, said.output
    stated = json.loads(said.stdout)
    assert stated["network"]["macs"] == cost(network).macs
    assert stated["accelerator"]["clocks"] == accelerator_cost(network, 2).clocks
    assert stated["area"]["array_gates"] > 0
    said = CliRunner().invoke(app, ["cost", str(tmp_path / "n.safetensors"), "--no-synthesis"])
    assert said.exit_code == 0
    assert "clocks an image" in said.stdout
    said = CliRunner().invoke(app, ["cost", "--modules", "--json"])
    assert said.exit_code == 0
    assert json.loads(said.stdout)["multiply-accumulate"]["10"]["dsps"] == 1


@pytest.mark.parametrize("arguments", [[], ["n.safetensors", "--modules"], ["n.safetensors", "--lanes", "0"]])
def test_impossible_requests(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_network(small(), tmp_path / "n.safetensors")
    monkeypatch.setattr("sys.argv", ["radixpoint", "cost", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_without_yosys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis.shutil, "which", lambda name: None)
    monkeypatch.setattr(synthesis.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match="needs Yosys"):
        synthesis.synthesize_now("rx_add", {}, "gates")
