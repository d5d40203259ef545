"""Workload files for models of accelerators: the loops around each multiplication, and their word lengths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import networks
from radixpoint.accelerator.cost import cost
from radixpoint.accelerator.workloads import WORKLOADS, loops
from radixpoint.cli.main import main
from radixpoint.ir.network import IntGraph
from radixpoint.ir.storage import save_network
from radixpoint.quantization.design import Code, Codes, Design
from radixpoint.quantization.quantize import quantize


@pytest.fixture(scope="module", params=["residual", "varied"])
def network(request: pytest.FixtureRequest) -> IntGraph:
    graph = getattr(networks, request.param)()
    return quantize(graph, networks.calibrated(graph), Design.separate(6, 14))


def test_loops_multiply_what_the_network_does(network: IntGraph) -> None:
    found = loops(network)
    assert sum(layer.products for layer in found) == cost(network).macs
    names = [layer.name for layer in found]
    for layer in found:
        step = next(s for s in network.steps if network.tensors[s.name].layer == layer.name)
        assert layer.before == _last_needed(network, step.inputs[0], names)
        assert (layer.weight_bits, layer.operand_bits, layer.result_bits) == (6, 6, 14), step.name
    assert found[0].before is None
    sums = {s.name: t for s in network.steps if (t := network.tensors[s.name]) and s.family == "product"}
    assert [layer.sum_bits for layer in found] == [t.format.word_length for t in sums.values()]


def _last_needed(network: IntGraph, tensor: str, names: list[str]) -> str | None:
    """Of all layers of products that a tensor depends on, the last."""
    by_name, todo, needed = {step.name: step for step in network.steps}, [tensor], set()
    while todo:
        step = by_name.get(todo.pop())
        if step is not None:
            todo += step.inputs
            if step.family == "product":
                needed.add(network.tensors[step.name].layer)
    return max(needed, key=names.index, default=None)


def test_zigzag(network: IntGraph) -> None:
    """As its validator asks (3.9.1): sizes in the order of their names, sources that exist, padded sizes."""
    (text,) = WORKLOADS["zigzag"](network).values()
    layers = yaml.safe_load(text)
    assert layers == json.loads(text)
    for layer, own in zip(layers, loops(network), strict=True):
        sizes = dict(zip(layer["loop_dims"], layer["loop_sizes"], strict=True))
        products = 1
        for size in sizes.values():
            products *= size
        assert products == own.products
        bits = (own.weight_bits, own.operand_bits, own.sum_bits, own.result_bits)
        assert tuple(layer["operand_precision"][name] for name in ("W", "I", "O", "O_final")) == bits
        assert layer["operand_source"]["W"] == layer["id"] >= layer["operand_source"]["I"]
        for axis, (name, place, tap) in enumerate((("ix", "OX", "FX"), ("iy", "OY", "FY"))):
            stride, dilation = (int(part.split("*")[0]) for part in _terms(layer, name))
            reach = (sizes[place] - 1) * stride + (sizes[tap] - 1) * dilation + 1
            before, after = layer["padding"][axis]
            assert reach <= before + layer["pr_loop_sizes"][axis] + after < reach + stride


def _terms(layer: dict[str, list[str]], name: str) -> list[str]:
    (relation,) = (text for text in layer["dimension_relations"] if text.startswith(f"{name}="))
    return relation.split("=")[1].split("+")


def test_timeloop(network: IntGraph) -> None:
    """Every name is defined, and the sizes are those of the layer."""
    files = WORKLOADS["timeloop"](network)
    assert list(files) == [f"{i:03}.yaml" for i in range(len(files))]
    for text, own in zip(files.values(), loops(network), strict=True):
        assert f"{own.name}: Weights 6 bits, Inputs 6, Outputs {own.sum_bits}, cast to 14" in text
        problem = yaml.safe_load(text)["problem"]
        shape, sizes = problem["shape"], problem["instance"]
        products = 1
        for name in shape["dimensions"]:
            assert len(name) == 1
            products *= sizes[name]
        assert products == own.products
        known = {*shape["dimensions"], *(factor["name"] for factor in shape["coefficients"])}
        assert known == set(sizes)
        used = {
            name
            for space in shape["data_spaces"]
            for rank in space["projection"]
            for term in rank
            for name in term
        }
        assert used == known
        assert [space.get("read_write", False) for space in shape["data_spaces"]] == [False, False, True]


def test_the_command(
    network: IntGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "network.safetensors", tmp_path / "new" / "layers"
    save_network(network, file)

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["radixpoint", "cost", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert run(str(file), "--workload", "timeloop", "--out", str(out)) == 0
    assert {path.name: path.read_text() for path in out.iterdir()} == WORKLOADS["timeloop"](network)
    assert "layers for timeloop" in capsys.readouterr().out
    assert run(str(file), "--workload", "zigzag", "--out", str(out)) == 2
    assert "expected a new or an empty folder" in capsys.readouterr().err
    for wrong in (
        (str(file), "--workload", "zigzag"),
        (str(file), "--out", str(out)),
        ("--workload", "zigzag"),
    ):
        assert run(*wrong) == 2
        assert "error: cost: expected a quantized network" in capsys.readouterr().err
    for more in (["--json"], ["--target", "diannao"]):
        assert run(str(file), "--workload", "zigzag", "--out", str(tmp_path / "z"), *more) == 2
        assert "expected neither --json nor --target" in capsys.readouterr().err
    coded, graph = tmp_path / "coded.safetensors", networks.residual()
    design = Design.separate(4, 14, codes=Codes(weights=Code("log2")))
    save_network(quantize(graph, networks.calibrated(graph), design), coded)
    assert run(str(coded), "--workload", "zigzag", "--out", str(tmp_path / "z")) == 2
    assert "coded.safetensors" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coded.safetensors", file.name, "new"]
    assert run(str(file), "--workload", "scale-sim", "--out", str(out)) == 2
