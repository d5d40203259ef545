"""Refinement: each step against brute force or an identity; refined networks run everywhere, and better."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import exports
import networks
from radixpoint.arithmetic.cast import dequantize
from radixpoint.cli.main import main
from radixpoint.data import ImageSet
from radixpoint.engines import ENGINES, make_engine, quantize_images
from radixpoint.engines.reference import _conv
from radixpoint.errors import DesignError
from radixpoint.export import export_network, verify_export
from radixpoint.ir.derived import with_parameters
from radixpoint.ir.graph import Graph, freeze
from radixpoint.ir.network import IntGraph, IntParameter, Step, verify
from radixpoint.measure.calibrate import calibrate
from radixpoint.measure.floating import FloatingEngine
from radixpoint.quantization.design import Design
from radixpoint.quantization.patches import patches
from radixpoint.quantization.quantize import LEAST_JUDGES, Quantizer, quantize
from radixpoint.quantization.refine import (
    IMAGES,
    TECHNIQUES,
    Refiner,
    _columns,
    _evening,
    _second_moments,
    _units,
)
from radixpoint.quantization.sites import stored_parameters
from radixpoint.quantization.stand_in import StandIn


def images(graph: Graph, count: int = 64, seed: int = 0) -> ImageSet:
    return networks.images(count, seed, graph.shapes["input"])


def error(stored: np.ndarray, target: np.ndarray, second: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """What both searches minimise, by row, in units of the grid."""
    e = stored - target * scale
    return np.einsum("ij,jk,ik->i", e, second, e)


def problem(seed: int, rows: int = 5, columns: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(200, columns)) @ random.normal(size=(columns, columns))
    return random.normal(size=(rows, columns)), x.T @ x / 200, np.full((rows, 1), 3.0)


@pytest.mark.parametrize("seed", range(10))
def test_searches_against_brute_force(seed: int) -> None:
    """Nearer than nearest rounding to the best of all integers."""
    target, second, scale = problem(seed)
    low, high = -4, 3
    nearest = np.clip(np.floor(target * scale + 0.5), low, high)
    by_columns = _columns(target, second, scale, low, high)
    by_units = _units(nearest, target, second, scale, low, high)
    best = np.full(len(target), np.inf)
    around = [range(max(low, -4), min(high, 3) + 1)] * target.shape[1]
    grid = np.array(list(itertools.product(*around)), float)
    for row in range(len(target)):
        e = grid - target[row] * scale[row]
        best[row] = np.einsum("ij,jk,ik->i", e, second, e).min()
    for found in (by_columns, by_units):
        assert np.array_equal(found, np.rint(found))
        assert found.min() >= low
        assert found.max() <= high
        assert (error(found, target, second, scale) >= best - 1e-9).all()
        assert error(found, target, second, scale).sum() < error(nearest, target, second, scale).sum()
        assert error(found, target, second, scale).sum() < 9 * best.sum()
    assert (np.abs(by_units - np.clip(target * scale, low, high)) <= 1).all()  # one of the two around it
    assert (error(by_units, target, second, scale) <= error(nearest, target, second, scale) + 1e-9).all()
    after = _units(by_columns, target, second, scale, low, high)
    assert (error(after, target, second, scale) <= error(by_columns, target, second, scale) + 1e-9).all()


def test_searches_gain_where_inputs_are_correlated() -> None:
    totals = np.zeros(3)
    for seed in range(20):
        target, second, scale = problem(seed, 16, 40)
        nearest = np.clip(np.floor(target * scale + 0.5), -8, 7)
        found = (
            nearest,
            _columns(target, second, scale, -8, 7),
            _units(nearest, target, second, scale, -8, 7),
        )
        totals += [error(f, target, second, scale).sum() for f in found]
    assert totals[1] < 0.6 * totals[0]
    assert totals[2] < 0.6 * totals[0]


def test_uncorrelated_inputs_leave_nearest_rounding() -> None:
    target, _, scale = problem(1)
    diagonal = np.diag(np.arange(1.0, 7.0))
    nearest = np.clip(np.floor(target * scale + 0.5), -4, 3)
    assert np.array_equal(_columns(target, diagonal, scale, -4, 3), nearest)
    assert np.array_equal(_units(nearest, target, diagonal, scale, -4, 3), nearest)


@pytest.mark.parametrize("groups", [1, 2])
def test_patches_times_weights_are_the_convolution(groups: int) -> None:
    random = np.random.default_rng(0)
    attributes = {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2), "groups": groups}
    step = Step("c", "conv", ("x",), attributes, {})
    x = random.integers(-9, 9, (3, 4, 7, 8))
    weight = random.integers(-9, 9, (6, 4 // groups, 3, 2))
    expected = _conv(step, [x], {"weight": weight})
    seen = patches(x.astype(np.float32), attributes, (3, 2))
    rows = weight.reshape(groups, 6 // groups, -1)
    got = np.einsum("gpk,gok->gpo", seen, rows).transpose(1, 0, 2).reshape(3, *expected.shape[2:], 6)
    assert np.array_equal(got.transpose(0, 3, 1, 2), expected)


def test_each_image_counts_the_same() -> None:
    """Four images of 1, 2, 0.1 and 0: mean square 1.2525; the factor of the last two would exceed 8."""
    x = np.ones((4, 2, 3, 3), np.float32) * np.array([1, 2, 0.1, 0], np.float32).reshape(4, 1, 1, 1)
    root = 1.2525**0.5
    assert _evening(x).ravel().tolist() == pytest.approx([root, root / 2, 8, 8])
    assert _evening(np.zeros((2, 3), np.float32)).ravel().tolist() == [1, 1]
    graph, images_ = networks.residual(), images(networks.residual())
    refiner = Refiner(graph, images_, StandIn(graph, calibrate(graph, images_)).operands)
    refiner._random = np.random.default_rng(0)
    real = refiner.inputs
    even = np.arange(1, len(real) + 1, dtype=np.float32).reshape(-1, 1, 1, 1)
    step = Step("c", "conv", ("x",), dict(networks.WINDOW), {})
    q, x, factors = refiner._chosen_patches(step, (3, 3), real * even, np.ones_like(real) * even, even)
    middle = x[0].reshape(len(factors), 3, 3, 3)[:, :, 1, 1]
    assert (middle == factors[:, None]).all()  # each patch has the factor of its own image
    assert len(np.unique(factors)) == len(real)
    assert q.shape == x.shape


def test_second_moments() -> None:
    q = np.random.default_rng(0).normal(1, 1, (50, 4)).astype(np.float32)
    assert np.allclose(_second_moments(q), q.astype(float).T @ q.astype(float) / 50, atol=1e-5)


# ------------------------------------------------------------------------------------ whole networks

LOW = {"conv": 4, "bn": 12}


def refined(graph: Graph, techniques: tuple[str, ...], **options: object) -> tuple[IntGraph, IntGraph]:
    """Nearest rounding, and refined."""
    seen = images(graph)
    ranges = calibrate(graph, seen)
    plain = quantize(graph, ranges, Design.separate(**LOW, **options))
    return plain, quantize(graph, ranges, Design.separate(**LOW, **options, refine=list(techniques)), seen)


def logit_error(graph: Graph, network: IntGraph) -> float:
    x = images(graph, 32, seed=1).inputs(0, 32)  # none of them was calibrated on
    real = FloatingEngine(graph).run(x)[graph.output]
    stored = make_engine(network).run(quantize_images(network, x))[network.output]
    return float(np.mean((dequantize(stored, network.logit_fraction_length()) - real) ** 2))


@pytest.mark.parametrize("form", ["affine", "staged", "folded"])
@pytest.mark.parametrize("scope", ["network", "class", "tensor", "channel"])
def test_formats_stay_and_engines_agree(form: str, scope: str) -> None:
    rule = "mse" if scope in ("network", "class") else "max"
    point = {"scope": scope, "rule": rule}
    plain, better = refined(networks.mixed(), TECHNIQUES, batch_norm=form, binary_point=point)
    verify(better)
    assert [s.name for s in plain.steps] == [s.name for s in better.steps]
    for key, parameter in plain.parameters.items():
        assert parameter.format == better.parameters[key].format
    assert any(
        not np.array_equal(p.data, better.parameters[k].data)
        for k, p in plain.parameters.items()
        if k.endswith("/weight")
    )
    x = exports.example_images(better, 3)
    order = [better.input, *(s.name for s in better.steps)]
    results = [make_engine(better, name).run(x, order) for name in ENGINES]
    for other in results[1:]:
        for name in order:
            assert np.array_equal(results[0][name], other[name])


@pytest.mark.slow("it refines")
@pytest.mark.parametrize("techniques", [("offsets",), ("columns",), ("units",), TECHNIQUES])
def test_logits_are_nearer_on_other_images(techniques: tuple[str, ...]) -> None:
    """Over several networks together: on one, any of them may be unlucky."""
    plain = better = 0.0
    for seed in range(6):
        graph = networks.residual(seed)
        pair = refined(graph, techniques, binary_point={"scope": "channel", "rule": "mse"})
        scale = float(np.mean(FloatingEngine(graph).run(images(graph).inputs(0, 32))[graph.output] ** 2))
        plain += logit_error(graph, pair[0]) / scale
        better += logit_error(graph, pair[1]) / scale
    assert better < 0.9 * plain


@pytest.mark.parametrize("form", ["affine", "staged", "folded", "bias"])
def test_offsets_correct_the_median(form: str) -> None:
    """Of the first offset's result, before it is rounded, on the calibration images: batch normalization's in
    each form, and a convolution's own bias."""
    graph = networks.mixed() if form == "bias" else networks.residual()
    plain, better = refined(graph, ("offsets",), batch_norm="affine" if form == "bias" else form)
    x = images(graph).inputs(0, 64)
    conv, bn = graph.layers[0], graph.layers[1]
    if form == "bias":
        real = FloatingEngine(graph, [conv.name]).run(x)[conv.name]
    elif form == "staged":
        real = FloatingEngine(graph, [conv.name]).run(x)[conv.name]
        real = real - graph.parameter(bn, "mean")[:, None, None]
    else:
        real = FloatingEngine(graph, [bn.name]).run(x)[bn.name]
    left = []
    for network in (plain, better):
        step = next(s for s in network.steps if s.op == "offset")
        assert network.tensors[step.name].layer in (conv.name, bn.name)
        stored = make_engine(network).run(quantize_images(network, x), [step.name])[step.name]
        wrong = dequantize(stored, network.tensors[step.name].format.fractions(3)) - real
        left.append(np.abs(np.median(wrong, (0, 2, 3))).max())
    assert left[1] < 0.2 * left[0]


def test_what_a_few_patches_lose_moves_no_offset() -> None:
    """Inputs of 0.51, one in 64 cut off by the format: offsets make up for the rounding of 0.51 alone."""
    n = networks.Net(0, (1, 8, 8))
    x = n.conv("input", 3, 1, pads=(0, 0, 0, 0), bias=True)
    n.arrays[f"{x}.weight"] = np.array([0.5, -1.0, 0.25], np.float32).reshape(3, 1, 1, 1)
    graph = n.graph(n.fc(n.simple("flatten", x), 192, 7))
    seen = images(graph)
    pixels = np.full_like(seen.pixels, 160)  # 0.51
    pixels[:, :, 0, 0] = 255  # 2.0, beyond the largest of 3 bits with F = 2
    seen = dataclasses.replace(seen, pixels=pixels)
    ranges = calibrate(graph, seen)
    design = Design.separate(3, 16, binary_point={"rule": "percentile", "percentile": 95})
    plain = quantize(graph, ranges, design)
    better = quantize(graph, ranges, msgspec.structs.replace(design, refine=["offsets"]), seen)
    assert plain.tensors["input"].format.fraction_lengths == (2,)
    key = f"{x}/bias"
    change = better.parameters[key].data - plain.parameters[key].data
    # 0.51 is stored as 0.5: that, and nothing of the cut-off values
    real = float(seen.inputs(0, 1)[0, 0, 1, 1])
    one = np.ldexp((real - 0.5) * np.array([0.5, -1.0, 0.25]), plain.parameters[key].format.fraction_lengths)
    assert change.ravel().tolist() == np.floor(one + 0.5).tolist()
    assert change.any()


def test_twice_gives_the_same() -> None:
    graph = networks.mixed()
    assert refined(graph, TECHNIQUES)[1].digest == refined(graph, TECHNIQUES)[1].digest


def test_symmetric_weights_stay_symmetric() -> None:
    _, better = refined(networks.mixed(), TECHNIQUES, overflow="SAT_SYM")
    for parameter in better.parameters.values():
        if parameter.format.signed and parameter.format.word_length < 12:
            assert parameter.data.min() >= -parameter.format.max


def test_refined_networks_are_exported(tmp_path: Path) -> None:
    _, better = refined(networks.residual(), TECHNIQUES)
    export_network(better, "c", tmp_path / "x")
    assert verify_export(tmp_path / "x").mismatch is None


def test_needs_the_images() -> None:
    graph = networks.residual()
    ranges = calibrate(graph, images(graph))
    with pytest.raises(DesignError, match="needs the calibration images"):
        quantize(graph, ranges, Design.separate(4, 8, refine=["columns"]))
    with pytest.raises(DesignError, match="refine"):
        Design.separate(4, 8, refine=["magic"])


def test_unknown_technique_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["search", "m", "--images", "i", "--calibration", "c", "--out", "o", "--refine", "columns+magic"]
    monkeypatch.setattr("sys.argv", ["radixpoint", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "expected some of offsets+columns+units" in capsys.readouterr().err


def test_one_refiner_for_many_designs() -> None:
    graph = networks.residual()
    seen = images(graph)
    ranges = calibrate(graph, seen)
    refiner = Refiner(graph, seen, StandIn(graph, ranges).operands)
    for bits in (3, 5):
        design = Design.separate(bits, 12)
        weights = {k[0]: v.values for k, v in stored_parameters(graph, design).items() if k[1] == "weight"}
        plain = quantize(graph, ranges, design)
        again = quantize(graph, ranges, Design.separate(bits, 12, refine=["columns"]), seen)
        assert refiner.refine(plain, weights, ["columns"]).digest == again.digest


def test_what_fits_its_own_images_alone_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged on calibration images of no part: the last technique goes first, all if none helps."""
    graph = networks.residual()
    calibration = images(graph, IMAGES + 80)
    quantizer = Quantizer(graph, calibrate(graph, calibration), calibration)
    design = Design.separate(4, 10, refine=["units", "offsets", "columns"])
    plain = quantizer.quantize(Design.separate(4, 10))
    inputs = quantizer._parts[1].inputs(0, 80)
    assert len(inputs) == len(quantizer._parts[1]) == 80
    few = images(graph, IMAGES + LEAST_JUDGES - 1)
    assert len(Quantizer(graph, calibrate(graph, few), few)._parts[1]) == len(few), "a few decide by chance"
    seen = {image.tobytes() for image in calibration.first(IMAGES).inputs(0, IMAGES)}
    assert not seen & {image.tobytes() for image in inputs}

    honest, asked = Refiner.refine, []

    def damaging(*techniques: str) -> None:
        """From now on these techniques make nonsense of the weights of the last layer."""

        def refine(self: Refiner, network: IntGraph, weights: Any, names: Any, *rest: Any) -> IntGraph:
            asked.append(tuple(names))
            better = honest(self, network, weights, names, *rest)
            key = better.steps[-3].parameters["weight"]
            parameter = better.parameters[key]
            worse = IntParameter(freeze(parameter.data[::-1].copy()), parameter.format)
            return with_parameters(better, {key: worse}) if set(names) & set(techniques) else better

        monkeypatch.setattr(Refiner, "refine", refine)
        quantizer._last = None

    damaging()
    whole = quantizer.quantize(design)
    assert whole.metadata["refined"] == "offsets+columns+units"
    assert asked == [("offsets", "columns", "units")]
    damaging("units")
    assert quantizer.quantize(design).metadata["refined"] == "offsets+columns"
    damaging("offsets")
    left = quantizer.quantize(design)
    assert left.metadata["refined"] == ""
    assert left.digest == plain.digest
    assert asked[-3:] == [("offsets", "columns", "units"), ("offsets", "columns"), ("offsets",)]
