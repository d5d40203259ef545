"""Block reconstruction: blocks are parts that compute the same, and come nearer to float on other images."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import networks
from radixpoint.cli.main import main
from radixpoint.demo import demo_images, demo_network
from radixpoint.engines import ENGINES, make_engine, quantize_images
from radixpoint.errors import DesignError, FormatError, ModelError
from radixpoint.export import export_network, verify_export
from radixpoint.ir.derived import part, with_parameters
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph, verify
from radixpoint.measure.calibrate import calibrate
from radixpoint.measure.evaluate import evaluate
from radixpoint.quantization import blocks
from radixpoint.quantization.blocks import Reconstructor, _apart, _moved, _shares, _with_cast, narrow_places
from radixpoint.quantization.design import Code, Codes, Design
from radixpoint.quantization.quantize import Quantizer, formats_in
from radixpoint.searching import search

GRAPHS = {"residual": networks.residual, "mixed": networks.mixed, "varied": networks.varied}


def refined(graph: Graph, word: int = 4, **options: Any) -> tuple[IntGraph, IntGraph, Quantizer]:
    """Nearest rounding, and with blocks."""
    seen = networks.images(96, shape=graph.shapes[graph.input])
    quantizer = Quantizer(graph, calibrate(graph, seen), seen)
    asked = {"refine": ["blocks"], **options}
    plain = quantizer.quantize(Design.separate(word, 12 if word == 4 else word, **{**asked, "refine": []}))
    return plain, quantizer.quantize(Design.separate(word, 12 if word == 4 else word, **asked)), quantizer


def test_narrow_places() -> None:
    """Ends of residual blocks, and what stands before the last layer; nothing within a block."""
    assert narrow_places(networks.residual()) == ["max_pool3", "flatten14"]
    found = narrow_places(demo_network())
    assert found[0] == "maxpool"
    assert found[-1] == "flatten"
    assert len(found) == 1 + 15 + 1  # the last residual block ends in the average
    assert all(name.endswith(".relu") for name in found[1:-1])


@pytest.mark.parametrize("name", GRAPHS)
def test_blocks_in_a_row_are_the_network(name: str) -> None:
    """What one gives is what the next takes: every integer of the whole, by parts."""
    graph = GRAPHS[name]()
    network = refined(graph, refine=[])[0]
    stored = quantize_images(network, networks.images(9, 3, graph.shapes[graph.input]).inputs(0, 9))
    whole = make_engine(network).run(stored, list(network.tensors))
    tool = Reconstructor(graph, network, [networks.images(1, shape=graph.shapes[graph.input])])
    spans, tensors, seen = list(tool.spans(network)), tool._tensors(network), set()
    for start, ends in spans:
        block = part(network, tensors[start], [tensors[end] for end in ends])
        verify(block)
        assert block.input == tensors[start]
        found = make_engine(block).run(whole.get(block.input, stored), [s.name for s in block.steps])
        for tensor, integers in found.items():
            assert np.array_equal(integers, whole[tensor]), tensor
        seen |= set(found)
    assert seen == {s.name for s in network.steps if network.readers[s.name] or s.name in network.outputs}
    assert len(spans) > 1 or name == "varied"


@pytest.mark.slow("it trains")
@pytest.mark.parametrize("form", ["affine", "staged", "folded"])
@pytest.mark.parametrize("name", GRAPHS)
def test_what_comes_out_is_an_ordinary_network(name: str, form: str, tmp_path: Path) -> None:
    plain, better, quantizer = refined(GRAPHS[name](), batch_norm=form)
    verify(better)
    assert better.metadata["refined"] == "blocks"
    assert [step.name for step in plain.steps] == [step.name for step in better.steps]
    for key, parameter in plain.parameters.items():
        assert parameter.format.word_length == better.parameters[key].format.word_length
    x = networks.images(5, 3, plain.tensors[plain.input].shape).inputs(0, 5)
    names = list(better.tensors)
    first, *others = (make_engine(better, e).run(quantize_images(better, x), names) for e in ENGINES)
    for other in others:
        assert all(np.array_equal(first[tensor], other[tensor]) for tensor in names)
    export_network(better, "c", tmp_path / "c")
    assert verify_export(tmp_path / "c").mismatch is None
    design = Design.recorded(better)
    assert design is not None
    shown = {site.key: own for site, own in quantizer.places(design)}
    for step in better.steps:
        if step.family == "product":
            layer = better.tensors[step.name].layer
            assert shown[layer, "weight"] == better.parameters[step.parameters["weight"]].format
            assert shown[layer, "operand"] == better.tensors[step.inputs[0]].format


@pytest.mark.slow("it trains")
def test_the_demo_network_gains_on_images_of_no_part() -> None:
    """At 4 bits, where rule max has left next to nothing, on test images, without a label."""
    graph, calibration, judges = demo_network(), demo_images("calibration"), demo_images("test").first(2000)
    quantizer = Quantizer(graph, calibrate(graph, calibration), calibration)
    design = Design.separate(4, 16, unsigned=True, binary_point={"scope": "channel", "rule": "max"})
    before = evaluate(graph, quantizer.quantize(design), judges)
    design = Design.separate(
        4, 16, unsigned=True, binary_point={"scope": "channel", "rule": "max"}, refine=["blocks"]
    )
    after = evaluate(graph, quantizer.quantize(design), judges)
    assert before.drop > 50
    assert after.drop_interval[1] < 6


@pytest.mark.slow("it trains")
def test_twice_gives_the_same() -> None:
    assert refined(networks.residual())[1].digest == refined(networks.residual())[1].digest


@pytest.mark.slow("it trains")
def test_symmetric_stays_symmetric() -> None:
    better = refined(networks.residual(), overflow="SAT_SYM")[1]
    assert better.metadata["refined"] == "blocks"
    for key, parameter in better.parameters.items():
        if key.endswith(("/weight", "/scale", "/offset")):
            assert parameter.data.min() >= -parameter.format.max, key


@pytest.mark.slow("it trains")
@pytest.mark.parametrize("scope", ["network", "class"])
def test_shared_binary_points_stay_where_they_are(scope: str) -> None:
    plain, better, _ = refined(networks.residual(), binary_point={"scope": scope, "rule": "mse"})
    assert formats_in(plain) == formats_in(better)
    assert plain.digest != better.digest


def test_a_binary_point_that_is_wrong_is_moved_back() -> None:
    """Planted: a cast three places off. It is found by the error of the block's result alone."""
    graph = networks.residual()
    network, _, quantizer = refined(graph, refine=[])
    exact = quantizer._stand_in.network
    tool = Reconstructor(graph, exact, [networks.images(64, 5)])
    inputs = tool.inputs
    ours, theirs = tool._tensors(network), tool._tensors(exact)
    ends = [graph.output]
    for name in narrow_places(graph)[:1]:
        block = part(network, ours[name], [ours[end] for end in ends])
        real = part(exact, theirs[name], [theirs[end] for end in ends])
    stored = make_engine(network).run(quantize_images(network, inputs), [block.input])[block.input]
    target = make_engine(exact, "blas").run(quantize_images(exact, inputs), [real.output])[real.output]
    targets = [np.ldexp(target, -exact.logit_fraction_length()).astype(np.float32)]
    cast = next(step.name for step in block.steps if step.op == "cast")
    wrong = _with_cast(cast, block, 3)
    assert _apart(wrong, stored, targets) > 1.5 * _apart(block, stored, targets)
    mended = tool._placed(network, wrong, stored, targets, {})
    assert _apart(mended, stored, targets) <= _apart(block, stored, targets)
    assert mended.tensors[cast].format.fraction_lengths < wrong.tensors[cast].format.fraction_lengths
    assert _moved(block.tensors[cast].format, 3) == wrong.tensors[cast].format


def test_each_image_counts_the_same() -> None:
    """Powers 4, 16 and 0, whose mean is 20/3: the last counts 64 times as much as the mean, no more."""
    target = np.array([[2, 0], [4, 0], [0, 0]], np.float32)
    assert _shares(target).tolist() == pytest.approx([1 / 4, 1 / 16, 64 / (20 / 3)])


def test_a_block_that_training_spoils_is_kept_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: training that makes nonsense; no block takes it, and so nothing is refined."""

    def spoiled(self: Reconstructor, block: IntGraph, *_: Any) -> IntGraph:
        changed = {
            key: type(p)(np.zeros_like(p.data), p.format)
            for key, p in block.parameters.items()
            if key.endswith("/weight")
        }
        return with_parameters(block, changed)

    monkeypatch.setattr(Reconstructor, "_trained", spoiled)
    plain, better, _ = refined(networks.residual())
    assert better.metadata["refined"] == ""
    assert better.digest == plain.digest


def test_blocks_that_lose_on_other_images_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a reconstruction that is worse than nothing, which only the judging images can tell."""
    graph = networks.residual()

    def worse(self: Reconstructor, network: IntGraph, *_: Any) -> IntGraph:
        key = next(key for key in network.parameters if key.endswith("/weight"))
        parameter = network.parameters[key]
        return with_parameters(network, {key: type(parameter)(-parameter.data, parameter.format)})

    monkeypatch.setattr(Reconstructor, "reconstruct", worse)
    plain, better, _ = refined(graph)
    assert better.metadata["refined"] == ""
    assert better.digest == plain.digest


def test_teachers_and_judges_are_apart() -> None:
    graph = networks.residual()
    calibration = networks.images(900)
    teachers, judges = Quantizer(graph, calibrate(graph, calibration), calibration)._parts
    sets = [{image.tobytes() for image in found.pixels} for found in (*teachers, judges)]
    assert [len(found) for found in (*teachers, judges)] == [512, 132, 256]
    assert len(set.union(*sets)) == sum(map(len, sets)) == len({i.tobytes() for i in calibration.pixels})


def test_no_memory_for_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 + 4 + 4 + 4 bytes for each of 6 x 6 x 8 numbers, the most between two blocks or 3 x 12 x 12."""
    graph = networks.residual()
    monkeypatch.setattr(blocks, "_MEMORY", 80 * 16 * 432)
    network = refined(graph, refine=[])[0]
    first, second = networks.images(50, 1), networks.images(50, 2)
    inputs = Reconstructor(graph, network, [first, second]).inputs
    assert np.array_equal(inputs, np.concatenate([first.inputs(0, 50), second.inputs(0, 30)]))


def limited(then: str) -> Graph:
    """A convolution, a pooling, and a limit or a table: chosen for a binary point two steps before."""
    n = networks.Net(0)
    x = n.simple("max_pool", n.bn(n.conv("input", 8)), kernel=(2, 2), strides=(2, 2), pads=(0,) * 4)
    x = n.simple("clip", x, low=0.0, high=1.0) if then == "clip" else n.function(x, then)
    x = n.simple("relu", n.bn(n.conv(x, 8)))
    return n.graph(n.fc(n.simple("flatten", x), 8 * 36, 7))


@pytest.mark.parametrize("then", ["clip", "tanh", "sigmoid"])
def test_what_has_numbers_of_its_own_behind_it_stays(then: str) -> None:
    graph = limited(then)
    network, better, _ = refined(graph, binary_point={"scope": "tensor", "rule": "loss"}, word=8)
    tool = Reconstructor(graph, network, [networks.images(1)])
    bound = next(t for t, tensor in network.tensors.items() if tensor.value == graph.layers[1].name)
    free = next(t for t, tensor in network.tensors.items() if tensor.value == graph.layers[5].name)
    assert not tool._movable(network, bound)
    assert tool._movable(network, free)
    assert better.tensors[bound].format == network.tensors[bound].format
    kept = [step for step in network.steps if step.op in ("clamp", "lookup")]
    for step in kept:
        again = next(s for s in better.steps if s.name == step.name)
        assert dict(again.attributes) == dict(step.attributes)
        if step.op == "lookup":
            table = step.parameters["table"]
            assert np.array_equal(better.parameters[table].data, network.parameters[table].data)


def test_a_limit_that_saturates_is_a_limit() -> None:
    """Planted: a clip whose end is the format's end looks like a ReLU, and is none."""
    graph = limited("clip")
    network = refined(graph, refine=[], word=8)[0]
    tool = Reconstructor(graph, network, [networks.images(1)])
    clip = next(step for step in network.steps if step.op == "clamp")
    steps = tuple(
        dataclasses.replace(s, attributes={"low": 0, "high": network.tensors[s.inputs[0]].format.max})
        if s is clip
        else s
        for s in network.steps
    )
    planted = dataclasses.replace(network, steps=steps)
    bound = next(t for t, tensor in network.tensors.items() if tensor.value == graph.layers[1].name)
    assert not tool._movable(planted, bound)


def test_sums_that_would_not_fit_leave_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that takes any integer may need more than 64 bits where the network does not."""

    def too_wide(*_: Any) -> IntGraph:
        raise FormatError("65 bits")

    monkeypatch.setattr(blocks, "part", too_wide)
    plain, better, _ = refined(networks.residual())
    assert better.digest == plain.digest


def test_training_that_diverges_leaves_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "RATE", float("nan"))
    monkeypatch.setattr(Reconstructor, "_placed", lambda self, network, block, *_: block)
    plain, better, _ = refined(networks.residual())
    assert better.digest == plain.digest


def test_equalized_blocks_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "EPOCHS", 1)
    made: list[int] = []
    honest = Reconstructor.reconstruct

    def counted(self: Reconstructor, *given: Any) -> IntGraph:
        made.append(1)
        return honest(self, *given)

    monkeypatch.setattr(Reconstructor, "reconstruct", counted)
    _, better, quantizer = refined(networks.residual(), equalize=True)
    design = Design.recorded(better)
    assert design is not None
    assert design.equalize
    quantizer.places(design)
    assert len(made) == 1


REFUSED = {
    "codes": {"codes": Codes(weights=Code("log2"))},
    "a narrower accumulator": {"accumulator": {"word_length": 12}},
    "stochastic rounding": {"rounding": "STOCHASTIC"},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_trained_is_refused(what: str) -> None:
    with pytest.raises(DesignError, match=f"plain grid, and the design has {what}"):
        Design.separate(4, 8, refine=["blocks"], **REFUSED[what])


def test_without_torch_it_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    graph = networks.residual()
    images = networks.labelled(graph, 32, 1)
    monkeypatch.setitem(sys.modules, "torch", None)
    said = "refining blocks needs torch, which is not installed: pip install"
    with pytest.raises(ModelError, match=said):
        Design.separate(4, 8, refine=["blocks"]).check(graph)
    with pytest.raises(ModelError, match=said):
        search(graph, images, images, tmp_path / "run", refine=["blocks"])
    assert not (tmp_path / "run").exists()
    given = ["search", "demo:network", "--images", "demo:test", "--calibration", "demo:calibration"]
    monkeypatch.setattr("sys.argv", ["radixpoint", *given, "-o", str(tmp_path / "run"), "--refine", "blocks"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_torch_leaves_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "EPOCHS", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        refined(networks.residual())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
