"""Every engine gives the reference's integers on every tensor; and the reference is right."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest

import fast
import networks
import oracle
from radixpoint.arithmetic.cast import quantize as quantize_values
from radixpoint.arithmetic.formats import Overflow, Rounding
from radixpoint.engines import (
    ENGINES,
    BlasEngine,
    ReferenceEngine,
    blas,
    make_engine,
    quantize_images,
)
from radixpoint.errors import DesignError
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph, IntParameter
from radixpoint.measure.calibrate import calibrate
from radixpoint.measure.evaluate import Mismatch, first_mismatch, layer_sqnr
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import Quantizer
from radixpoint.searching.allocate import allocated, product_layers
from radixpoint.searching.policies import POLICIES

GRAPHS = {"residual": networks.residual(), "mixed": networks.mixed()}
QUANTIZERS = {name: Quantizer(g, networks.calibrated(g)) for name, g in GRAPHS.items()}
INPUTS = {name: networks.images(5, 1, g.shapes["input"]).inputs(0, 5) for name, g in GRAPHS.items()}


def agree(graph: IntGraph, inputs: np.ndarray) -> None:
    fast.agree(graph, quantize_images(graph, inputs))


@pytest.mark.slow("many networks")
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("form", ["affine", "staged", "folded"])
@pytest.mark.parametrize("scope", ["network", "class", "tensor", "channel"])
@pytest.mark.parametrize("rule", ["max", "percentile", "mse", "sqnr"])
def test_forms_scopes_and_rules(name: str, form: str, scope: str, rule: str) -> None:
    if rule == "sqnr" and scope in ("network", "class"):
        with pytest.raises(DesignError, match="expected scope tensor or channel"):
            Design.separate(8, 8, binary_point={"scope": scope, "rule": rule})
        return
    for conv, bn in ((4, 6), (8, 8), (10, 16), (16, 16)):
        design = Design.separate(
            conv, bn, batch_norm=form, binary_point={"scope": scope, "rule": rule}, average_pool="reciprocal"
        )
        agree(QUANTIZERS[name].quantize(design), INPUTS[name])


@pytest.mark.slow("it chooses binary points by loss")
@pytest.mark.parametrize("form", ["affine", "staged", "folded"])
@pytest.mark.parametrize(
    ("scope", "start"), [("network", "mse"), ("class", "mse"), ("tensor", "max"), ("channel", "max")]
)
def test_choice_by_loss(form: str, scope: str, start: str) -> None:
    """Chosen by what the network loses: never worse on the sample than the rule it starts from."""
    from radixpoint.arithmetic.cast import dequantize
    from radixpoint.quantization.quantize import divergence

    quantizer = QUANTIZERS["residual"]
    losses = []
    for rule in (start, "loss"):
        graph = quantizer.quantize(
            Design.separate(7, 9, batch_norm=form, binary_point={"scope": scope, "rule": rule})
        )
        agree(graph, INPUTS["residual"])
        stored = BlasEngine(graph).run(quantize_images(graph, quantizer.ranges.sample))[graph.output]
        logits = dequantize(stored, graph.logit_fraction_length())
        losses.append(divergence(logits, quantizer.ranges.logits))
    assert losses[1] <= losses[0]


@pytest.mark.slow("many networks")
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("overflow", list(Overflow))
def test_rounding_and_overflow(name: str, rounding: Rounding, overflow: Overflow) -> None:
    division = "reciprocal" if rounding is Rounding.STOCHASTIC else "division"
    for scope, (conv, bn) in itertools.product(("tensor", "channel"), ((6, 8), (10, 14))):
        design = Design.separate(
            conv,
            bn,
            rounding=rounding,
            overflow=overflow,
            average_pool=division,
            seed=5,
            parameter_rounding=rounding,
            binary_point={"scope": scope, "rule": "mse"},
        )
        agree(QUANTIZERS[name].quantize(design), INPUTS[name])


@pytest.mark.slow("many networks")
@pytest.mark.parametrize("scope", ["network", "class", "tensor", "channel"])
@pytest.mark.parametrize("form", ["affine", "staged", "folded"])
@pytest.mark.parametrize("conv", [4, 8, 16])
def test_unsigned_operands(scope: str, form: str, conv: int) -> None:
    """No sign bit where a ReLU stands before; the image, which may be negative, keeps its own."""
    for name in GRAPHS:
        point = {"scope": scope, "rule": "loss" if scope in ("network", "class") else "percentile"}
        design = Design.separate(conv, 12, batch_norm=form, binary_point=point, unsigned=True)
        network = QUANTIZERS[name].quantize(design)
        operands = [network.tensors[s.inputs[0]] for s in network.steps if s.op in ("conv", "dense")]
        assert any(not t.format.signed and t.format.word_length == conv for t in operands)
        assert network.tensors[network.input].format.signed
        for tensor in operands:
            assert tensor.format.signed or tensor.low >= 0
        agree(network, INPUTS[name])


@pytest.mark.parametrize("word", [8, 16])
def test_wrapping_keeps_negative_values_behind_which_a_relu_stands(word: int) -> None:
    """-1.5 x 1.92 wraps to a positive value in a format that only has room for 1.92."""
    n = networks.Net(0, (1, 2, 2))
    x = n.conv("input", 2, 1, pads=(0, 0, 0, 0))
    n.arrays[f"{x}.weight"] = np.array([1, -1.5], np.float32).reshape(2, 1, 1, 1)
    relu = n.simple("relu", x)
    graph = n.graph(n.fc(n.simple("flatten", relu), 8, 7, bias=False))
    bright = networks.images(8, shape=(1, 2, 2))
    bright = replace(bright, pixels=np.full_like(bright.pixels, 250))
    quantizer = Quantizer(graph, calibrate(graph, bright))
    for overflow in ("SAT", "WRAP"):
        network = quantizer.quantize(Design.joint(word, overflow=overflow))
        step = next(step.name for step in network.steps if step.op == "clamp")
        inputs = quantize_images(network, bright.inputs(0, 1))
        stored = ReferenceEngine(network).run(inputs, [step])[step]
        result = np.ldexp(stored, -network.tensors[step].format.fractions(3)).reshape(2, -1)[:, 0]
        assert result[1] == 0
        assert abs(result[0] - (250 / 255 - 0.5) / 0.25) < 2 ** (3 - word)


def test_unsigned_operands_have_one_more_bit_of_magnitude() -> None:
    quantizer = QUANTIZERS["residual"]
    plain, unsigned = (
        quantizer.quantize(Design.separate(8, 12, unsigned=unsigned)) for unsigned in (False, True)
    )
    finer = [
        unsigned.tensors[b.inputs[0]].format.fraction_lengths[0]
        - plain.tensors[a.inputs[0]].format.fraction_lengths[0]
        for a, b in zip(plain.steps, unsigned.steps, strict=True)
        if b.op in ("conv", "dense") and not unsigned.tensors[b.inputs[0]].format.signed
    ]
    assert finer
    assert set(finer) == {1}


@pytest.mark.slow("many networks")
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize(
    ("form", "scope"), [("affine", "channel"), ("staged", "tensor"), ("folded", "channel")]
)
def test_everything_at_once(name: str, form: str, scope: str) -> None:
    """By layer, rule loss, unsigned operands, refined by every technique; equalized, where it can be."""
    graph = GRAPHS[name]
    layers = product_layers(graph)
    pairs = np.random.default_rng(3).choice([3, 5, 8], (len(layers), 2)).tolist()
    even = name == "residual"
    best = {"unsigned": True, "equalize": even, "binary_point": {"scope": scope, "rule": "loss"}}
    design = Design.separate(8, 12, batch_norm=form, **best, refine=["offsets", "columns", "units"])
    design = allocated(design, {n: (w, x) for n, (w, x) in zip(layers, pairs, strict=True)}, graph)
    calibration = networks.images(shape=graph.shapes["input"])
    quantizer = Quantizer(graph, networks.calibrated(graph), calibration)
    quantized = quantizer.quantize(design)
    for left_out in ({"refine": []}, {"layers": {}}, {"unsigned": False}, *[{"equalize": False}] * even):
        other = quantizer.quantize(msgspec.structs.replace(design, **left_out))
        assert other.digest != quantized.digest, left_out
    agree(quantized, INPUTS[name])


def test_scale_bits_in_the_binary_point() -> None:
    """Factors of 0.75 and 96 in 4 bits are both 6 where each channel has a binary point of its own."""
    n = networks.Net(0, (1, 4, 4))
    bn = n.bn(n.conv("input", 2))
    values = {"gamma": (0.75, 96), "beta": (0, 0), "mean": (0, 0), "variance": (1, 1)}
    n.arrays |= {f"{bn}.{role}": np.array(pair, np.float32) for role, pair in values.items()}
    graph = n.graph(n.fc(n.simple("flatten", bn), 32, 7))
    quantizer = Quantizer(graph, networks.calibrated(graph))
    found = {}
    for scope in ("channel", "tensor"):
        design = Design.separate(8, 4, binary_point={"scope": scope, "rule": "max"})
        quantized = quantizer.quantize(design)
        (scale,) = (step for step in quantized.steps if step.op == "scale")
        factor = quantized.parameters[scale.parameters["factor"]]
        found[scope] = factor.data.ravel().tolist(), factor.format.fraction_lengths
        agree(quantized, networks.images(3, 1, (1, 4, 4)).inputs(0, 3))
    # 96 = 6 * 2^4; with its binary point 0.75 is 0.05 units, which rounds to nothing
    assert found == {"channel": ([6, 6], (3, -4)), "tensor": ([0, 6], (-4,))}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("word", [2, 3, 12, 18, 20, 24, 28, 30])
def test_word_lengths(name: str, word: int) -> None:
    """From the shortest to those whose sums need float64, then digits."""
    agree(QUANTIZERS[name].quantize(Design.joint(word)), INPUTS[name])


def test_wide_products_are_split() -> None:
    """31-bit operands: sums beyond 2**53 go through the digits."""
    from radixpoint.arithmetic.formats import TensorFormat
    from radixpoint.ir.network import IntTensor

    random = np.random.default_rng(0)
    matrix = random.integers(-(2**30), 2**30, (50, 6))
    x = random.integers(-(2**30), 2**30, (20, 50))
    source = IntTensor((50,), TensorFormat(True, 31, (0,)), -(2**30), 2**30 - 1, "", None)
    assert blas.partial_bound(matrix, source.low, source.high) > 2**53
    assert np.array_equal(blas._product(matrix, source)([x]), x @ matrix)


@pytest.mark.parametrize("bits", [9, 10, 11, 12, 13])
def test_blocked_products(bits: int) -> None:
    """Extremes everywhere: every partial sum at its bound, through each way of splitting."""
    from radixpoint.arithmetic.formats import TensorFormat
    from radixpoint.ir.network import IntTensor

    top = 1 << (bits - 1)
    source = IntTensor((600,), TensorFormat(True, bits, (0,)), -top, top - 1, "", None)
    matrix = np.where(np.arange(600)[:, None] % 2, -top, top - 1) * np.ones((1, 3), np.int64)
    x = np.stack([np.full(600, -top), np.full(600, top - 1), np.where(np.arange(600) % 2, -top, top - 1)])
    assert np.array_equal(blas._product(matrix, source)([x.astype(np.float64)]), x @ matrix)


def test_narrow_accumulators_wrap() -> None:
    exact = QUANTIZERS["residual"].quantize(Design.joint(8))
    narrow = QUANTIZERS["residual"].quantize(Design.joint(8, accumulator={"word_length": 12}))
    agree(narrow, INPUTS["residual"])
    assert len(narrow.steps) > len(exact.steps)
    first = next(s for s in narrow.steps if s.op == "conv")
    wrapped = narrow.steps[narrow.steps.index(first) + 1]
    stored = quantize_images(narrow, INPUTS["residual"])
    got = ReferenceEngine(narrow).run(stored, [first.name, wrapped.name])
    assert np.array_equal(got[wrapped.name], (got[first.name] + 2048) % 4096 - 2048)
    assert np.abs(got[first.name]).max() > 2048, "nothing wrapped: the test shows nothing"


def test_saturating_accumulators_are_refused() -> None:
    with pytest.raises(DesignError, match="order"):
        Design.joint(8, accumulator={"word_length": 12, "overflow": "SAT"})


def test_per_layer_word_lengths() -> None:
    layers = {"conv0": {"weights": 5, "activations": 7}, GRAPHS["residual"].output: {"weights": 12}}
    graph = QUANTIZERS["residual"].quantize(Design.joint(9, layers=layers))
    assert graph.parameters["conv0/weight"].format.word_length == 5
    assert graph.parameters[f"{graph.output.split('/')[0]}/weight"].format.word_length == 12
    agree(graph, INPUTS["residual"])


def test_the_comparison_finds_a_planted_error() -> None:
    """One weight, one unit off: the first differing tensor is that convolution."""
    graph = QUANTIZERS["residual"].quantize(Design.joint(10))
    conv = [s for s in graph.steps if s.op == "conv"][2]
    key = conv.parameters["weight"]
    data = graph.parameters[key].data.copy()
    stored = quantize_images(graph, INPUTS["residual"])
    seen = ReferenceEngine(graph).run(stored, conv.inputs)[conv.inputs[0]]
    live = int(np.abs(seen).sum((0, 2, 3)).argmax())  # a weight of a channel that is not dead
    data[0, live, data.shape[2] // 2, data.shape[3] // 2] += 1
    wrong = replace(
        graph, parameters={**graph.parameters, key: IntParameter(data, graph.parameters[key].format)}
    )
    for _, engine in fast.fast_engines(wrong):
        found = first_mismatch(graph, ReferenceEngine(graph), engine, stored)
        assert isinstance(found, Mismatch)
        assert found.tensor == conv.name
        assert abs(found.expected - found.got) > 0


def test_threads_and_batches_make_no_difference() -> None:
    graph = QUANTIZERS["mixed"].quantize(Design.joint(9, rounding="STOCHASTIC", average_pool="reciprocal"))
    stored = quantize_images(graph, networks.images(40, 3).inputs(0, 40))
    expected = ReferenceEngine(graph).run(stored)[graph.output]
    for name in ENGINES:
        for threads in (1, 2, 3, 7):
            assert np.array_equal(make_engine(graph, name, threads).run(stored)[graph.output], expected)
        engine = make_engine(graph, name)
        one_by_one = [engine.run(stored[i : i + 1])[graph.output] for i in range(40)]
        assert np.array_equal(np.concatenate(one_by_one), expected)
        assert np.array_equal(engine.run(stored)[graph.output], expected)


def test_an_engine_may_be_called_from_several_threads() -> None:
    graph = QUANTIZERS["residual"].quantize(Design.joint(9))
    stored = quantize_images(graph, networks.images(24, 3).inputs(0, 24))
    expected = ReferenceEngine(graph).run(stored)[graph.output]
    for name in ENGINES:
        engine = make_engine(graph, name)
        with ThreadPoolExecutor(4) as pool:
            parts = list(
                pool.map(lambda i, e=engine: e.run(stored[i : i + 3])[graph.output], range(0, 24, 3))
            )
        assert np.array_equal(np.concatenate(parts), expected), name


def by_hand(graph: Graph, quantized: IntGraph, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The residual network in exact rationals, layer by layer, from the real-valued graph and the formats.

    Shares nothing with the engines: nested loops over Fractions, one conversion where a layer ends.
    """
    formats = {t.value: t.format for t in quantized.tensors.values() if t.value is not None}
    real: dict[str, np.ndarray] = {}

    def convert(value: Fraction, form) -> Fraction:  # type: ignore[no-untyped-def]
        f = form.fraction_lengths[0]
        return oracle.convert(value, True, form.word_length, f, "RND", "SAT") * Fraction(2) ** -f

    def parameter(layer: str, role: str, index: tuple[int, ...]) -> Fraction:
        p = quantized.parameters[f"{layer}/{role}"]
        return int(p.data.reshape(p.data.shape)[index]) * Fraction(2) ** -p.format.fraction_lengths[0]

    image = formats["input"]
    real["input"] = np.vectorize(lambda v: convert(Fraction(float(v)), image), otypes=[object])(inputs)
    operand = {}
    for step in quantized.steps:
        tensor = quantized.tensors[step.name]
        if step.op == "conv":
            operand[tensor.layer] = quantized.tensors[step.inputs[0]].format
    for layer in graph.layers:
        if layer.op not in ("conv", "batch_norm", "relu"):
            break
        x = real[layer.inputs[0]]
        form = formats[layer.name]
        if layer.op == "relu":
            real[layer.name] = np.maximum(x, 0)
        elif layer.op == "batch_norm":
            out = np.empty_like(x)
            for c in range(x.shape[0]):
                s, t = (parameter(layer.name, r, (c, 0, 0)) for r in ("scale", "offset"))
                out[c] = np.vectorize(lambda v, s=s, t=t, f=form: convert(s * v + t, f), otypes=[object])(
                    x[c]
                )
            real[layer.name] = out
        else:
            narrow = np.vectorize(lambda v, f=operand[layer.name]: convert(v, f), otypes=[object])(x)
            outputs, channels, kh, kw = graph.parameter(layer, "weight").shape
            padded = np.full((channels, x.shape[1] + 2, x.shape[2] + 2), Fraction(0), object)
            padded[:, 1:-1, 1:-1] = narrow
            out = np.empty((outputs, x.shape[1], x.shape[2]), object)
            for o, i, j in itertools.product(*map(range, out.shape)):
                total = Fraction(0)
                for c, p, q in itertools.product(range(channels), range(kh), range(kw)):
                    total += parameter(layer.name, "weight", (o, c, p, q)) * padded[c, i + p, j + q]
                out[o, i, j] = convert(total, form)
            real[layer.name] = out
    return real


def test_the_reference_against_exact_rationals() -> None:
    graph = GRAPHS["residual"]
    quantized = QUANTIZERS["residual"].quantize(Design.separate(6, 9))
    inputs = INPUTS["residual"][:1]
    stored = ReferenceEngine(quantized).run(quantize_images(quantized, inputs), list(quantized.tensors))
    checked = 0
    for name, expected in by_hand(graph, quantized, inputs[0]).items():
        tensor = next(n for n, t in quantized.tensors.items() if t.value == name)
        scale = Fraction(2) ** -quantized.tensors[tensor].format.fraction_lengths[0]
        got = [int(v) * scale for v in stored[tensor][0].flat]
        assert got == list(expected.flat), name
        checked += 1
    assert checked == 4


def test_more_bits_are_closer_to_float() -> None:
    for name, graph in GRAPHS.items():
        quality = []
        for word in (6, 10, 16, 22):
            quantized = QUANTIZERS[name].quantize(Design.joint(word))
            seen = networks.images(shape=graph.shapes["input"]).inputs(
                0, 16
            )  # calibrated on: nothing saturates
            quality.append(min(layer_sqnr(graph, quantized, seen).values()))
        assert quality == sorted(quality)
        assert quality[-1] > 75, quality


DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.mark.slow("it runs the full-width network")
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}: the full-width ResNet-50 is NOT compared")
def test_full_resnet50_every_tensor() -> None:
    """4 images, 12 designs, every tensor of the full-width network: zero differing integers."""
    import radixpoint

    graph = radixpoint.load(DATA / "resnet50-tiny-imagenet.safetensors", (3, 64, 64))
    classes = radixpoint.read_classes(DATA / "wnids.txt")
    calibration = radixpoint.load_images(DATA / "images-calibration.tar", classes=classes).first(48)
    quantizer = Quantizer(graph, radixpoint.calibrate(graph, calibration))
    inputs = radixpoint.load_images(DATA / "images-search.tar", classes=classes).first(4).inputs(0, 4)
    designs = [
        Design.joint(16),
        Design.joint(12, batch_norm="staged"),
        Design.joint(4),
        Design.separate(10, 16),
        Design.separate(9, 14, batch_norm="staged"),
        Design.separate(11, 13, batch_norm="folded"),
        Design.separate(5, 8, batch_norm="folded"),
        Design.separate(6, 16, rounding="RND_CONV", overflow="SAT_SYM"),
        *(
            Design.separate(c, b, batch_norm=f, binary_point={"scope": "channel", "rule": r})
            for c, b, f, r in (
                (8, 16, "affine", "mse"),
                (7, 12, "staged", "max"),
                (10, 10, "folded", "percentile"),
                (16, 16, "staged", "mse"),
            )
        ),
    ]
    assert len(designs) == 12
    for design in designs:
        quantized = quantizer.quantize(design)
        stored = quantize_images(quantized, inputs)
        reference = ReferenceEngine(quantized)
        expected = reference.run(stored, list(quantized.tensors))
        for name, engine in fast.fast_engines(quantized):
            if name == "portable":
                continue  # slow; the last design runs on it
            for kept, value in engine.run(stored, list(quantized.tensors)).items():
                assert np.array_equal(value, expected[kept]), (design, name, kept)
            fused = engine.run(stored)[quantized.output]
            assert np.array_equal(fused, expected[quantized.output]), (design, name)
    for name, engine in fast.fast_engines(quantized):
        assert np.array_equal(engine.run(stored)[quantized.output], expected[quantized.output]), name


@pytest.mark.slow("it runs the full-width network")
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}: the full-width ResNet-50 is NOT compared")
def test_full_resnet50_of_fewer_bits() -> None:
    """Word lengths by layer, refined; codes that are not uniform: every tensor of one image."""
    import radixpoint

    graph = radixpoint.load(DATA / "resnet50-tiny-imagenet.safetensors", (3, 64, 64))
    classes = radixpoint.read_classes(DATA / "wnids.txt")
    calibration = radixpoint.load_images(DATA / "images-calibration.tar", classes=classes).first(48)
    quantizer = Quantizer(graph, radixpoint.calibrate(graph, calibration), calibration)
    inputs = radixpoint.load_images(DATA / "images-search.tar", classes=classes).first(1).inputs(0, 1)
    lengths = np.random.default_rng(0).integers(3, 9, (len(product_layers(graph)), 2)).tolist()
    by_layer = {name: (w, x) for name, (w, x) in zip(product_layers(graph), lengths, strict=True)}
    best = {"unsigned": True, "binary_point": {"scope": "channel", "rule": "sqnr"}}
    refined = Design.separate(8, 12, **best, refine=["offsets"])
    minifloat = POLICIES["minifloat"].design(5, 12, {"unsigned": True}, graph)
    for design in (allocated(refined, by_layer, graph), minifloat):
        quantized = quantizer.quantize(design)
        stored = quantize_images(quantized, inputs)
        expected = ReferenceEngine(quantized).run(stored, list(quantized.tensors))
        for name, engine in fast.fast_engines(quantized):
            if name == "portable":
                continue  # slow
            for kept, value in engine.run(stored, list(quantized.tensors)).items():
                assert np.array_equal(value, expected[kept]), (design, name, kept)
            assert np.array_equal(engine.run(stored)[quantized.output], expected[quantized.output]), name


def test_images_are_quantized_once() -> None:
    graph = QUANTIZERS["residual"].quantize(Design.joint(6))
    form = graph.tensors["input"].format.channel(0)
    assert np.array_equal(
        quantize_images(graph, INPUTS["residual"]), quantize_values(INPUTS["residual"], form)
    )
