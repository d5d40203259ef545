"""Retraining: its forward pass is the network's own integers, and what comes out is an ordinary network."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import fast
import networks
from radixpoint.arithmetic.formats import Rounding
from radixpoint.cli.main import main
from radixpoint.data import ImageSet
from radixpoint.demo import demo_images, demo_network
from radixpoint.engines import ReferenceEngine, make_engine, quantize_images
from radixpoint.errors import DataError, DesignError, EngineError, ModelError, RunError
from radixpoint.ir.derived import with_parameters
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph
from radixpoint.ir.storage import load_network, save_network
from radixpoint.measure.calibrate import calibrate
from radixpoint.measure.evaluate import evaluate
from radixpoint.quantization import differentiable, trainer
from radixpoint.quantization.design import Code, Codes, Design
from radixpoint.quantization.differentiable import Differentiable, _Cast
from radixpoint.quantization.quantize import Quantizer
from radixpoint.quantization.retrain import retrain
from radixpoint.quantization.trainer import of_the_graph, varied
from radixpoint.quantization.training import Training

GRAPHS = {"residual": networks.residual, "varied": networks.varied, "balanced": networks.balanced}
DESIGNS = {
    "4 bits": Design.separate(4, 8),
    "12 bits": Design.separate(12, 16, unsigned=True),
    "wraps": Design.joint(8, overflow="WRAP"),
    "symmetric": Design.joint(8, overflow="SAT_SYM", average_pool="reciprocal"),
    "staged": Design.separate(8, 12, batch_norm="staged"),
    "folded": Design.separate(8, 12, batch_norm="folded"),
    **{
        mode: Design.separate(5, 9, rounding=mode)
        for mode in ("TRN", "TRN_ZERO", "RND_MIN_INF", "RND_INF", "RND_ZERO", "RND_CONV")
    },
}
train = partial(retrain, threads=1)  # tensors are small: two would wait for each other
SHORT = Training(epochs=3, batch=16, rate=0.01)


def quantized(graph: Graph, design: Design) -> IntGraph:
    return Quantizer(graph, networks.calibrated(graph)).quantize(design)


@pytest.fixture(scope="module")
def low() -> tuple[Graph, IntGraph, ImageSet]:
    """A network that loses at 3 bits, and images to train it on."""
    graph = networks.residual()
    return graph, quantized(graph, Design.separate(3, 8)), networks.labelled(graph, 96, 5)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", GRAPHS)
def test_the_forward_pass_is_the_network(name: str, design: str) -> None:
    """Every tensor of every kind of step, == the reference."""
    graph = GRAPHS[name]()
    network = quantized(graph, DESIGNS[design])
    stored = quantize_images(network, networks.images(5, 1, graph.shapes[graph.input]).inputs(0, 5))
    expected = ReferenceEngine(network).run(stored, list(network.tensors))
    model = Differentiable(network, dtype=torch.float64)
    found = model.run({network.input: model.images(stored)}, list(network.tensors))
    for tensor, value in found.items():
        form = network.tensors[tensor].format
        integers = np.ldexp(value.detach().numpy(), form.fractions(value.ndim - 1))
        assert np.array_equal(integers, expected[tensor]), tensor
    sum(found[output].sum() for output in network.outputs).backward()
    assert all(v.grad is not None and v.grad.isfinite().all() for v in model.values.values())
    for key, parameter in model.parameters().items():
        assert np.array_equal(parameter.data, network.parameters[key].data), key


def test_a_cast_that_rounds_otherwise_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the comparison above fails if one mode of rounding is another."""
    changed = {**differentiable._ROUNDINGS, Rounding.RND: torch.round}
    monkeypatch.setattr(differentiable, "_ROUNDINGS", changed)
    with pytest.raises(AssertionError):
        test_the_forward_pass_is_the_network("residual", "4 bits")


def test_in_float32_few_bits_are_exact_too() -> None:
    """As they are trained: no sum of 4-bit products has more than 24 bits."""
    graph = networks.residual()
    network = quantized(graph, Design.separate(4, 8))
    assert max(t.format.word_length for t in network.tensors.values()) <= 24
    stored = quantize_images(network, networks.images(9, 2, graph.shapes[graph.input]).inputs(0, 9))
    expected = ReferenceEngine(network).run(stored)[network.output]
    model = Differentiable(network)
    found = model.run({network.input: model.images(stored)}, [network.output])[network.output]
    fraction = network.tensors[network.output].format.fraction_lengths[0]
    assert np.array_equal(np.ldexp(found.detach().numpy(), fraction), expected)


def test_constants_stay() -> None:
    """Reciprocals, minus one, weights of an interpolation are no parameters of the network."""
    graph = networks.varied()
    network = quantized(graph, Design.separate(4, 8, average_pool="reciprocal"))
    trained = of_the_graph(graph, network)
    model = Differentiable(network, trained=trained)
    kept = {key for key in network.parameters if key not in model.values}
    assert {"reciprocal", "minus", "first", "second"} <= {key.rpartition("/")[2] for key in kept}
    real = {f"{layer.name}/weight" for layer in graph.layers if layer.family == "product"}
    assert real <= set(model.values)
    images = networks.images(32, 1, graph.shapes[graph.input])
    made = train(graph, network, images, Training(epochs=2, batch=16, rate=0.5))
    for key, parameter in network.parameters.items():
        same = np.array_equal(made.parameters[key].data, parameter.data)
        assert same or key in model.values, key
    assert any(made.parameters[key] is not network.parameters[key] for key in model.values)


def test_gradients_pass_within_a_format_and_stop_beyond() -> None:
    x = torch.tensor([-9.0, -2.2, 0.3, 3.4, 3.6, 9.0], requires_grad=True)
    y = _Cast.apply(x, torch.tensor(1.0), -4, 3, Rounding.RND, False)
    y.sum().backward()
    assert y.tolist() == [-4, -2, 0, 3, 3, 3]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0, 0]


def test_it_is_nearer_to_float(low: tuple[Graph, IntGraph, ImageSet]) -> None:
    """On images that it was not trained on, by an engine; formats are kept; every engine agrees."""
    graph, network, images = low
    losses: list[float] = []
    made = retrain(
        graph,
        network,
        images,
        Training(epochs=12, batch=16, rate=0.01),
        progress=lambda _, loss: losses.append(loss),
    )
    assert losses[-1] < losses[0] / 2
    others = networks.labelled(graph, 400, 9)
    before, after = (evaluate(graph, n, others).agreement or 0 for n in (network, made))
    assert after > before + 5
    for step in network.steps:
        if step.row.rounds:
            assert made.tensors[step.name].format == network.tensors[step.name].format
    assert {k: p.format for k, p in made.parameters.items()} == {
        k: p.format for k, p in network.parameters.items()
    }
    fast.agree(made, quantize_images(made, others.inputs(0, 4)))
    assert made.metadata["estimated"] in ("again", "kept")


@pytest.mark.parametrize("equalize", [False, True])
def test_offsets_are_estimated_again(equalize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where weights have moved the means of channels, offsets move them back: kept if nearer to float."""
    graph = networks.balanced() if equalize else networks.residual()
    images = networks.labelled(graph, 96, 5)
    design = Design.separate(8, 12, equalize=equalize)
    quantizer = Quantizer(graph, calibrate(graph, images), images)
    network = quantizer.quantize(design)
    step = [s for s in network.steps if s.op == "conv"][-1]
    key = step.parameters["weight"]
    was = network.parameters[key]
    moved = np.clip(was.data + (was.format.max >> 2), was.format.min, was.format.max)
    broken = with_parameters(network, {key: dataclasses.replace(was, data=moved)})
    mended = quantizer.estimated_again(broken, design)
    assert mended.metadata["estimated"] == "again"
    judge = quantizer._even if equalize else quantizer
    assert judge._apart(mended) < judge._apart(broken)
    offsets = {s.parameters["value"] for s in network.steps if s.op == "offset"}
    for name, parameter in mended.parameters.items():
        assert name in offsets or np.array_equal(parameter.data, broken.parameters[name].data)
    monkeypatch.setattr(judge, "_apart", lambda _: 1.0)  # none nearer
    kept = quantizer.estimated_again(broken, design)
    assert kept.metadata["estimated"] == "kept"
    assert all(parameter is broken.parameters[name] for name, parameter in kept.parameters.items())


def test_interrupted_it_ends_as_undisturbed(low: tuple[Graph, IntGraph, ImageSet], tmp_path: Path) -> None:
    graph, network, images = low
    whole = train(graph, network, images, SHORT)
    file = tmp_path / "checkpoint"

    def stop(done: int, loss: float) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(graph, network, images, SHORT, file, stop)
    assert file.exists()
    seen: list[int] = []
    other = dataclasses.replace(images, pixels=images.pixels[::-1].copy(), targets=images.labels[::-1].copy())
    train(graph, network, other, SHORT, tmp_path / "checkpoint", lambda done, _: seen.append(done))
    assert seen == [1, 2, 3], "a checkpoint of other images is none"
    seen.clear()
    train(graph, network, other, SHORT, file, lambda done, _: seen.append(done))
    assert seen == [], "it had ended"
    with pytest.raises(KeyboardInterrupt):
        train(graph, network, images, SHORT, file, stop)
    seen.clear()
    again = train(graph, network, images, SHORT, file, lambda done, _: seen.append(done))
    assert seen == [3]
    assert again.digest == whole.digest
    assert again.metadata == whole.metadata
    file.write_bytes(b"radixpoint record, SHA-256 nonsense")
    with pytest.warns(UserWarning, match="checkpoint: damaged; the training begins anew"):
        assert train(graph, network, images, SHORT, file).digest == whole.digest
    (tmp_path / "f").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        train(graph, network, images, SHORT, tmp_path / "f" / "checkpoint")


def test_what_is_asked_of_images() -> None:
    x = np.arange(2 * 1 * 4 * 5, dtype=np.float32).reshape(2, 1, 4, 5)
    assert np.array_equal(varied(x, Training(), np.random.default_rng(0)), x)
    turned = varied(np.concatenate([x] * 20), Training(mirror=True), np.random.default_rng(0))
    kinds = {bytes(image) for image in turned}
    assert kinds == {bytes(image) for image in (*x, *x[..., ::-1].copy())}
    moved = varied(np.concatenate([x] * 50), Training(shift=1), np.random.default_rng(0))
    wide = np.pad(x[0, 0], 1, mode="edge")
    places = {wide[i : i + 4, j : j + 5].tobytes() for i in range(3) for j in range(3)}
    assert {image.tobytes() for image in moved[::2, 0]} == places


def test_labels_teach_if_asked(low: tuple[Graph, IntGraph, ImageSet]) -> None:
    graph, network, images = low
    without = dataclasses.replace(images, targets=None)
    assert train(graph, network, without, SHORT).digest == train(graph, network, images, SHORT).digest
    asked = Training(epochs=3, batch=16, rate=0.01, labels=1.0)
    assert train(graph, network, images, asked).digest != train(graph, network, images, SHORT).digest
    with pytest.raises(DataError, match="without labels"):
        train(graph, network, without, asked)


def test_networks_of_other_results(tmp_path: Path) -> None:
    """A network that names no classes learns its results themselves."""
    graph = networks.varied()
    made = dataclasses.replace(graph, other_outputs=(graph.layers[3].name,))
    network = quantized(made, Design.separate(4, 8))
    images = networks.images(32, 1, graph.shapes[graph.input])
    losses: list[float] = []
    asked = Training(epochs=6, batch=16, rate=0.01)
    result = train(made, network, images, asked, progress=lambda _, loss: losses.append(loss))
    assert losses[-1] < losses[0]
    assert result.outputs == network.outputs


def test_bad_requests(low: tuple[Graph, IntGraph, ImageSet], monkeypatch: pytest.MonkeyPatch) -> None:
    graph, network, images = low
    for wrong, said in (
        (Training(epochs=0), "epochs 0: expected at least 1"),
        (Training(batch=0), "batch 0"),
        (Training(shift=-1), "shift -1"),
        (Training(rate=0.0), "rate 0.0: expected a positive"),
        (Training(rate=float("nan")), "rate nan"),
        (Training(labels=1.5), "labels 1.5: expected a share"),
    ):
        with pytest.raises(DesignError, match=said):
            train(graph, network, images, wrong)
    with pytest.raises(ModelError, match="was not quantized from"):
        train(networks.balanced(), network, images, SHORT)
    with pytest.raises(DataError, match="the network takes"):
        train(graph, network, networks.images(32, 0, (3, 9, 9)), SHORT)
    with pytest.raises(EngineError, match="rounds at random"):
        train(graph, quantized(graph, Design.joint(8, rounding="STOCHASTIC")), images, SHORT)
    coded = Design.separate(4, 12, codes=Codes(weights=Code("log2")))
    with pytest.raises(DesignError, match="codes weights or operands"):
        train(graph, quantized(graph, coded), images, SHORT)
    narrow = quantized(graph, Design.separate(4, 8, accumulator={"word_length": 20}))
    with pytest.raises(DesignError, match="narrows accumulators"):
        train(graph, narrow, images, SHORT)
    with pytest.raises(EngineError, match="abacus"):
        train(graph, network, images, SHORT, device="abacus")
    with pytest.raises(EngineError, match="-1 threads"):
        retrain(graph, network, images, SHORT, threads=-1)
    monkeypatch.setattr(trainer.Trainer, "epoch", lambda self, number: float("nan"))
    with pytest.raises(RunError, match="diverged in epoch 1: expected a lower rate"):
        train(graph, network, images, SHORT)


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the network in the package: quantize, retrain, evaluate."""
    network = tmp_path / "network.safetensors"
    graph = demo_network()
    images = demo_images("calibration").first(64)
    save_network(Quantizer(graph, calibrate(graph, images)).quantize(Design.separate(4, 12)), network)
    out = tmp_path / "new" / "retrained.safetensors"
    common = ["radixpoint", "retrain", "demo:network", "-n", str(network), "-i", "demo:calibration"]
    monkeypatch.setattr(
        "sys.argv",
        [
            *common,
            "-o",
            str(out),
            "--max-images",
            "64",
            "--epochs",
            "1",
            "--mirror",
            "--threads",
            "1",
            "--json",
        ],
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = json.loads(capsys.readouterr().out)
    made = load_network(out)
    assert told["digest"] == made.digest != load_network(network).digest
    assert json.loads(made.metadata["retrained"])["mirror"] is True
    stored = quantize_images(made, images.inputs(0, 4))
    assert np.array_equal(
        make_engine(made).run(stored)[made.output], ReferenceEngine(made).run(stored)[made.output]
    )
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    for wrong, said in ((["--epochs", "0"], "epochs 0"), (["--device", "abacus"], "abacus")):
        monkeypatch.setattr("sys.argv", [*common, "-o", str(tmp_path / "none" / "x"), *wrong])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "none").exists()
