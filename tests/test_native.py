"""Kernels of the native engine: every instruction set in turn, every word length, adversarial operands.

``Chain.check`` compares every engine and instruction set with the reference, tensor by tensor and fused.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

import fast
import networks
from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.engines import (
    ENGINES,
    NativeEngine,
    ReferenceEngine,
    instruction_sets,
    make_engine,
    quantize_images,
)
from radixpoint.engines.native.isa import ISA_VARIABLE, chosen_instruction_set, native
from radixpoint.engines.native.planner import PRODUCERS, Planner
from radixpoint.engines.native.stage import Stage
from radixpoint.errors import EngineError
from radixpoint.ir.graph import freeze
from radixpoint.ir.network import IntParameter
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import Quantizer
from test_steps import Chain

BUILT = bool(instruction_sets())
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
needs_native = pytest.mark.skipif(
    not BUILT and COMPILER is None, reason="no C++ compiler: the native engine is NOT tested"
)

GEOMETRY = {
    # name: image, outputs, kernel, strides, pads, dilations, groups
    "1x1": ((19, 5, 4), 70, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "1x1, strided": ((16, 6, 5), 33, (1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1),
    "3x3": ((34, 5, 6), 17, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "3x3, strided, uneven pads": ((32, 7, 6), 64, (3, 3), (2, 2), (0, 1, 1, 0), (1, 1), 1),
    "3x3, dilated": ((20, 7, 7), 9, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 1),
    "7x7, three channels": ((3, 15, 14), 64, (7, 7), (2, 2), (3, 3, 3, 3), (1, 1), 1),
    "5x3, one channel": ((1, 9, 8), 8, (5, 3), (1, 2), (2, 0, 1, 1), (1, 1), 1),
    "grouped": ((24, 5, 5), 36, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 4),
    "depthwise": ((21, 6, 6), 21, (3, 3), (1, 2), (1, 1, 1, 1), (1, 1), 21),
}


def operands(pattern: str, low: int, high: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    index = np.arange(int(np.prod(shape))).reshape(shape)
    match pattern:
        case "lowest":
            return np.full(shape, low)
        case "highest":
            return np.full(shape, high)
        case "alternating":
            return np.where(index % 2, low, high)
        case _:
            return np.random.default_rng(seed).integers(low, high + 1, shape)


WINOGRAD = [isa.name for isa in native.instruction_sets() if isa.supported and isa.winograd] if BUILT else []
PATTERNS = ("lowest", "highest", "alternating", "random")


def convolution(name: str, x_bits: int, w_bits: int, x: str, w: str, seed: int) -> None:
    """One convolution, cast down, scaled, cast again: all engines against the reference."""
    image, outputs, kernel, strides, pads, dilations, groups = GEOMETRY[name]
    chain = Chain(x_bits, 3, image)
    attributes = {"strides": strides, "pads": pads, "dilations": dilations, "groups": groups}
    shape = (outputs, image[0] // groups, *kernel)
    top = 1 << (w_bits - 1)
    weight = operands(w, -top, top - 1, shape, seed)
    chain.step("conv", attributes, weight=IntParameter(weight, TensorFormat(True, w_bits, (4,))))
    chain.cast(TensorFormat(True, 16, (1,)))
    factor = np.random.default_rng(seed).integers(-(1 << 15), 1 << 15, (outputs, 1, 1))
    chain.step("scale", factor=IntParameter(factor, TensorFormat(True, 16, (12,))))
    chain.cast(TensorFormat(True, min(x_bits, 12), (2,)))
    chain.step("clamp", {"low": 0, "high": (1 << (min(x_bits, 12) - 1)) - 1})
    top = 1 << (x_bits - 1)
    images = np.stack(
        [operands(x, -top, top - 1, image, seed), operands("random", -top, top - 1, image, seed)]
    )
    chain.check(np.concatenate([images, np.zeros((1, *image), np.int64)]))


@needs_native
def test_the_native_engine_is_built() -> None:
    """Else every test of it would pass without having run."""
    assert BUILT
    assert "portable" in fast.USABLE


@needs_native
@pytest.mark.parametrize("name", GEOMETRY)
def test_every_word_length(name: str) -> None:
    for bits in range(2, 17):
        convolution(name, bits, bits, "random", "random", bits)
        convolution(name, bits, 18 - bits, "alternating", "random", bits)


@needs_native
@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize("bits", [(8, 8), (9, 8), (8, 9), (12, 12), (16, 8), (16, 16)])
def test_extremes(name: str, bits: tuple[int, int]) -> None:
    for seed, (x, w) in enumerate(product(PATTERNS, PATTERNS)):
        convolution(name, *bits, x, w, seed)


@needs_native
@pytest.mark.parametrize("last", [0, 1, -1])
def test_sums_at_the_edge_of_32_bits(last: int) -> None:
    """-32768 times weights that sum to 65536 is -2**31, which 32 bits just hold."""
    for sign in (1, -1):
        chain = Chain(16, 0, (64, 1, 2))
        weight = np.full((3, 64, 1, 1), sign * 1024)
        weight[1, 5] += last
        chain.step(
            "conv",
            {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 1},
            weight=IntParameter(weight, TensorFormat(True, 16, (0,))),
        )
        chain.cast(TensorFormat(True, 16, (-17,)))
        x = np.full((2, 64, 1, 2), -(1 << 15))
        x[1] = (1 << 15) - 1
        sums = chain.check(x)["0.conv"]
        assert abs(int(sums[0, 0, 0, 0])) == 1 << 31


@needs_native
def test_a_pair_of_most_negative_products() -> None:
    """(-32768)**2 twice is 2**31: no instruction that adds a pair before widening may see both."""
    chain = Chain(16, 0, (6,))
    weight = np.full((5, 6), -(1 << 15))
    chain.step("dense", weight=IntParameter(weight, TensorFormat(True, 16, (0,))))
    chain.cast(TensorFormat(True, 16, (-20,)))
    x = np.full((3, 6), -(1 << 15))
    assert chain.check(x)["0.dense"][0, 0] == 6 << 30


@needs_native
def test_many_blocks_of_a_wide_sum() -> None:
    """4,096 products of the largest magnitude: hundreds of blocks."""
    for pattern in PATTERNS:
        chain = Chain(16, 0, (4096,))
        weight = operands(pattern, -(1 << 15), (1 << 15) - 1, (66, 4096), 3)
        chain.step("dense", weight=IntParameter(weight, TensorFormat(True, 16, (0,))))
        chain.cast(TensorFormat(True, 16, (-27,)))
        top = 1 << 15
        chain.check(np.stack([operands(p, -top, top - 1, (4096,), 4) for p in PATTERNS]))


@needs_native
def test_residuals_and_pools_at_every_width() -> None:
    """Additions, poolings and concatenations of tensors stored in 8, 16, 32 and 64 bits."""
    for bits in (4, 8, 9, 15, 16, 17, 24, 31, 32):
        shape = (37, 6, 5)
        chain = Chain(bits, 4, shape)
        chain.step("max_pool", {"kernel": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1)})
        chain.step("add", inputs=("x", chain.last))
        chain.cast(TensorFormat(True, min(bits, 31), (3,)), "RND_CONV")
        narrow = chain.last
        chain.step("add", inputs=(narrow, narrow))
        chain.cast(TensorFormat(True, 20, tuple(i % 5 for i in range(37))))
        chain.step("concat", inputs=("x", "x"))
        chain.step("sum_pool", {"kernel": (6, 5), "strides": (1, 1), "pads": (0, 0, 0, 0)})
        chain.cast(TensorFormat(True, 9, (0,)))
        chain.step("flatten")
        top = 1 << (bits - 1)
        chain.check(np.stack([operands(p, -top, top - 1, shape, bits) for p in PATTERNS]))


@needs_native
def test_the_exact_fallback_is_noted() -> None:
    """Operands beyond 16 bits, and stochastic rounding: same integers, and a note that says which step."""
    graph = networks.residual()
    quantizer = Quantizer(graph, networks.calibrated(graph))
    stored_of = networks.images(3, 1, graph.shapes["input"]).inputs(0, 3)
    for design, word in (
        (Design.joint(18), "beyond 16 bits"),
        (Design.joint(8, rounding="STOCHASTIC", average_pool="reciprocal"), "stochastic"),
    ):
        quantized = quantizer.quantize(design)
        fast.agree(quantized, quantize_images(quantized, stored_of))
        notes = NativeEngine(quantized).notes
        assert any(word in note for note in notes), notes
    quantized = quantizer.quantize(Design.joint(8, average_pool="reciprocal"))
    assert NativeEngine(quantized).notes == []


@needs_native
def test_every_convolution_has_its_kernel() -> None:
    """No step of the default design of a ResNet falls back, nor of a network of functions and gates."""
    graph = networks.residual()
    quantized = Quantizer(graph, networks.calibrated(graph)).quantize(Design.separate(10, 16))
    assert NativeEngine(quantized).notes == []
    varied = networks.varied()
    notes = NativeEngine(
        Quantizer(varied, networks.calibrated(varied)).quantize(Design.separate(8, 12))
    ).notes
    assert {note.split("(")[1].split()[0] for note in notes} <= {"maximum", "minimum", "sum_channels", "a"}
    assert {step.op for step in quantized.steps} & set(PRODUCERS)


@needs_native
@pytest.mark.parametrize("name", [*fast.USABLE, "", "mips"])
def test_the_variable_forces_an_instruction_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_VARIABLE, name)
    if name == "mips":
        with pytest.raises(EngineError, match=r"RADIXPOINT_ISA=mips: expected one of .*portable"):
            chosen_instruction_set()
    else:
        assert chosen_instruction_set() == (name or fast.USABLE[0])


def test_unknown_engines_are_refused() -> None:
    graph = networks.residual()
    quantized = Quantizer(graph, networks.calibrated(graph)).quantize(Design.joint(8))
    with pytest.raises(EngineError, match="engine 'gpu': expected auto, native, blas, torch, reference"):
        make_engine(quantized, "gpu")
    with pytest.raises(EngineError, match="-1 threads"):
        make_engine(quantized, threads=-1)
    if BUILT:
        with pytest.raises(EngineError, match="'mmx': expected one of"):
            NativeEngine(quantized, instruction_set="mmx")
    assert list(ENGINES) == ["native", "blas", "torch", "reference"]


def test_without_the_extension() -> None:
    """An installation without a compiler works; asking for the native engine gives one clear error."""
    code = (
        "import sys; sys.modules['radixpoint._native'] = None\n"
        "from radixpoint.engines import check_engine, instruction_sets\n"
        "from radixpoint.errors import EngineError\n"
        "assert instruction_sets() == {} and check_engine() == 'blas'\n"
        "try:\n    check_engine('native')\n"
        "except EngineError as error:\n    assert 'without a C++ compiler' in str(error); print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


def saturating(word: int, unsigned: bool, seed: int) -> Chain:
    """A convolution whose bytes are as large as they may be: the sums in 16 bits come to their bound."""
    top = (1 << (word - 1)) - 1
    random = np.random.default_rng(seed)
    made = Chain(word, 0, (67, 4, 5))
    if unsigned:
        made.step("clamp", {"low": 0, "high": top})
    weight = np.where(random.random((21, 67, 1, 1)) < 0.5, top, -top)
    weight[:7], weight[7:14] = top, -top - 1
    form = TensorFormat(True, word, (0,))
    attributes = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 1}
    made.step("conv", attributes, weight=IntParameter(freeze(weight.astype(np.int64)), form))
    return made


@needs_native
@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("word", range(2, 9))
def test_sums_of_bytes_at_the_edge_of_sixteen_bits(word: int, unsigned: bool) -> None:
    top = (1 << (word - 1)) - 1
    x = np.stack(
        [operands(p, -top - 1, top, (67, 4, 5), 1) for p in ("lowest", "highest", "alternating", "")]
    )
    saturating(word, unsigned, word).check(x)


@needs_native
def test_one_sum_more_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: pairs of products that do not fit 16 bits are taken for such as do."""
    if not any(isa.saturates and isa.supported for isa in native.instruction_sets()):
        pytest.skip("no instruction set here adds bytes in 16 bits")
    monkeypatch.setattr(Planner, "pairs_fit", lambda self, step: True)
    x = np.stack([operands("highest", -128, 127, (67, 4, 5), 1)])
    with pytest.raises(AssertionError, match="avx2"):
        saturating(8, False, 8).check(x)


@needs_native
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("total", [256, 257, 258, 259, 260])
def test_runs_of_bytes_end_at_sixteen_bits(total: int, sign: int) -> None:
    """258 times 127 is the largest sum that fits, and -258 times 127 the least: one more begins a new run."""
    made = Chain(8, 0, (64, 3, 5))
    made.step("clamp", {"low": 0, "high": 127})
    weight = np.zeros((9, 64, 1, 1), np.int64)
    weight[:, 0:4], weight[:, 4:8:2], weight[:, 5:8:2] = 127, 2, total - 256
    weight *= sign
    form = TensorFormat(True, 8, (0,))
    window = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 1}
    made.step("conv", window, weight=IntParameter(freeze(weight), form))
    made.check(np.stack([operands("highest", -128, 127, (64, 3, 5), 1)]))


def sixteen(seed: int) -> tuple[Chain, list[str]]:
    """A convolution to 64 channels, then casts, scales, additions, poolings and clamps; the casts' names.

    All within 16 bits. Word lengths, binary points (some a channel), roundings and factors are random, many
    at an end. The binary points follow the size of what is cast: what comes out is spread over the format,
    and some of it at or next to a limit.
    """
    random = np.random.default_rng(seed)
    channels, word = 64, int(random.choice([4, 8, 12, 16]))
    chain, kept = Chain(word, 4, (32, 5, 3)), list[str]()
    top = 1 << (word - 1)
    sums = 2 * word - 5  # bits before the binary point of the largest

    def cast(size: int, by_channel: bool) -> int:
        """To a format near that size; returns its own."""
        signed, length = bool(random.random() < 0.8), int(random.choice([16, 16, 15, 12, 9, 8, 8, 4]))
        length = length if signed else min(length, 15)
        near = length - 1 - size + random.integers(-2, 4)
        points = near + random.integers(-1, 2, channels if by_channel else 1)
        to = TensorFormat(signed, length, tuple(map(int, points)))
        rounding, overflow = random.choice(["RND", "TRN", "RND_MIN_INF"]), random.choice(["SAT", "SAT_SYM"])
        chain.cast(to, str(rounding), str(overflow))
        kept.append(chain.last)
        return length - 1 - int(min(points))

    sizes, other = [], ""
    for branch in range(2):
        weight = random.choice([-top, top - 1, 1, -1, 0, 3], (channels, 32, 1, 1))
        chain.step(
            "conv",
            {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 1},
            inputs=("x",),
            weight=IntParameter(weight, TensorFormat(True, word, (4,))),
        )
        if branch == 0 or word > 4 or random.random() < 0.5:  # else sums of 16 bits go on
            sizes.append(cast(sums, random.random() < 0.3))
        else:
            sizes.append(sums)
        other = other or chain.last
    size = sizes[1]
    for _ in range(5):
        match random.integers(5):
            case 0:
                factor = random.choice([-32768 + 1, 32767, 0, 1, -3000, 17], (channels, 1, 1))
                chain.step("scale", factor=IntParameter(factor, TensorFormat(True, 16, (12,))))
                size += 3
            case 1:
                chain.step("add", inputs=(chain.last, other))
                size = max(size, sizes[0]) + 1
            case 2:
                own = chain.tensors[chain.last].format
                if not own.per_channel:
                    low, high = own.min // random.integers(1, 5), own.max - own.max // random.integers(2, 9)
                    chain.step("clamp", {"low": int(low), "high": int(high)})
                continue
            case 3:
                chain.step("max_pool", {"kernel": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1)})
        size = cast(size, random.random() < 0.3)
    cast(size, False)
    return chain, kept


@needs_native
@pytest.mark.parametrize("seed", range(60))
def test_chains_of_sixteen_bits(seed: int) -> None:
    """Whether each cast is stored, or the last one alone."""
    chain, kept = sixteen(seed)
    graph = chain.closed()
    form = graph.tensors["x"].format
    x = np.stack([operands(p, form.min, form.max, (32, 5, 3), seed) for p in PATTERNS])
    expected = ReferenceEngine(graph).run(x, [*kept, graph.output])
    for name, engine in fast.fast_engines(graph, 1):
        for names in (kept, [graph.output]):
            for tensor, got in engine.run(x, names).items():
                assert np.array_equal(got, expected[tensor]), (name, tensor)


@needs_native
def test_a_cast_at_the_edge_of_sixteen_bits() -> None:
    """All of 16 bits, and half a place more: the largest sums do not fit, and are the limit all the same."""
    for first, places in product((2, 3, 4, 8, 16), range(17)):
        for word in range(2, 17):
            chain = Chain(16, 0, (64, 4, 4))
            weight = 2 * np.eye(64, dtype=np.int64).reshape(64, 64, 1, 1)
            chain.step(
                "conv",
                {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 1},
                weight=IntParameter(weight, TensorFormat(True, 3, (1,))),
            )
            chain.cast(TensorFormat(True, first, (0,)))
            chain.cast(TensorFormat(True, word, (-places,)))
            graph = chain.closed()
            ends = np.array([-(1 << 15), (1 << 15) - 1])
            near = np.concatenate(
                [ends, (1 << 15) - 1 - np.arange(1, 16), np.arange(-16, 16), -(1 << 15) + np.arange(1, 16)]
            )
            x = np.resize(np.concatenate([near, near + (1 << 14), near >> 3]).clip(*ends), (2, 64, 4, 4))
            expected = ReferenceEngine(graph).run(x)[graph.output]
            for name, engine in fast.fast_engines(graph, 1):
                assert np.array_equal(engine.run(x)[graph.output], expected), (name, places, word)


@needs_native
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("word", [31, 32])
def test_split_sums_cast_to_the_longest_words(word: int, signed: bool) -> None:
    """A limit beyond what 32 bits with a sign hold, which no value reaches."""
    for places in (-16, -24):
        chain = Chain(16, 0, (64, 4, 4))
        weight = operands("random", -(1 << 15), (1 << 15) - 1, (64, 64, 1, 1), 0)
        chain.step(
            "conv",
            {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 1},
            weight=IntParameter(weight, TensorFormat(True, 16, (0,))),
        )
        chain.cast(TensorFormat(signed, word, (places,)))
        chain.cast(TensorFormat(True, 16, (places - 4,)))
        chain.check(operands("random", -(1 << 15), (1 << 15) - 1, (2, 64, 4, 4), 1))


@needs_native
@pytest.mark.skipif(
    not {"avx2", "avx512vnni", "amx"} & set(fast.USABLE), reason="no kernels of packed integers"
)
def test_a_largest_sum_below_the_limit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the largest sum below the limit, what 16 bits hold of it would come out."""
    monkeypatch.setattr(Stage, "_places", lambda stage, addend: int(stage.shift[0]))
    with pytest.raises(AssertionError):
        test_a_cast_at_the_edge_of_sixteen_bits()


@needs_native
def test_padding_larger_than_any_value() -> None:
    """Bytes that are all negative lie low in memory, and the zero that pads them lies above."""
    made = Chain(8, 0, (16, 5, 4))
    made.step("clamp", {"low": -128, "high": -100})
    weight = np.full((5, 16, 3, 3), 127)
    window = {"strides": (1, 1), "pads": (2, 2, 2, 2), "dilations": (1, 1), "groups": 1}
    made.step("conv", window, weight=IntParameter(weight, TensorFormat(True, 8, (0,))))
    made.cast(TensorFormat(True, 16, (-6,)))
    made.check(np.stack([operands(p, -128, 127, (16, 5, 4), 1) for p in PATTERNS]))


SQUARES = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "groups": 1}


def squares(low: int, high: int, weight: np.ndarray, size: tuple[int, int] = (7, 6)) -> Chain:
    """A 3x3 convolution of operands from ``low`` to ``high``, and a cast."""
    made = Chain(16, 0, (weight.shape[1], *size))
    made.step("clamp", {"low": low, "high": high})
    made.step("conv", SQUARES, weight=IntParameter(freeze(weight), TensorFormat(True, 16, (0,))))
    made.cast(TensorFormat(True, 16, (-12,)))
    return made


@needs_native
@pytest.mark.parametrize(
    ("low", "high", "weight", "fit"),
    [
        (0, 8191, 1, True),  # 4 times the largest operand is 32764
        (0, 8192, 1, False),
        (-8192, 8191, 1, True),  # and 4 times the least -32768
        (-8193, 8191, 1, False),
        (-10000, 6383, 1, False),  # 4 times the least again
        (0, 255, 3640, True),  # 9 times a weight is 32760, as the middle of the transformed ones
        (0, 255, 3641, False),
        (0, 255, -3640, True),
        (0, 255, -3641, False),
    ],
)
def test_where_fewer_products_are_exact(low: int, high: int, weight: int, fit: bool) -> None:
    """The largest operands and weights that 16 bits hold when transformed, and the next."""
    channels = 17 if abs(weight) == 1 else 16
    signs = np.where(operands("random", 0, 1, (9, channels, 3, 3), 5), 1, -1)
    signs[0], signs[1] = 1, -1
    signs[2] = np.where(np.arange(9).reshape(3, 3) % 2, 1, -1)
    made = squares(low, high, weight * signs)
    assert all(bool(fast.fewer_products(made.closed(), name)) is fit for name in WINOGRAD)
    made.check(np.stack([operands(p, -(1 << 15), (1 << 15) - 1, (channels, 7, 6), 6) for p in PATTERNS]))


@needs_native
@pytest.mark.parametrize(("more", "fit"), [(0, True), (1, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_fewer_products_at_the_edge_of_32_bits(more: int, fit: bool, sign: int) -> None:
    """4 times a sum has to fit: 2**29 - 1 is the largest, -2**29 the least."""
    edge = (1 << 29) - (sign > 0)
    whole, rest = divmod(edge // 4095, 144 * 9)
    weight = np.full((3, 144, 3, 3), whole)
    weight[:, 0, 0, 0] += rest
    weight[1, 5, 1, 1] += more
    reached = 4095 * int(weight[1].sum())
    assert edge - 4095 < reached <= edge or (more and edge < reached <= edge + 4095)
    made = squares(0, 4095, sign * weight)
    assert all(bool(fast.fewer_products(made.closed(), name)) is fit for name in WINOGRAD)
    made.check(np.stack([operands(p, -(1 << 15), (1 << 15) - 1, (144, 7, 6), 6) for p in PATTERNS]))


@needs_native
def test_fewer_products_of_every_size() -> None:
    """Odd and even lines and columns, few and many channels, several images, pads that differ."""
    random = np.random.default_rng(8)
    for number in range(40):
        channels, outputs = int(random.integers(16, 70)), int(random.integers(1, 70))
        shape = (channels, int(random.integers(2, 16)), int(random.integers(2, 16)))
        made = Chain(10, 0, shape)
        weight = random.integers(-512, 512, (outputs, channels, 3, 3))
        pads = tuple(int(x) for x in random.integers(1, 3, 4))
        parameter = IntParameter(freeze(weight), TensorFormat(True, 10, (0,)))
        made.step("conv", {**SQUARES, "pads": pads}, weight=parameter)
        made.cast(TensorFormat(True, 12, (-9,)), "RND_CONV" if number % 2 else "RND", "WRAP")
        assert all(fast.fewer_products(made.closed(), name) for name in WINOGRAD)
        made.check(random.integers(-512, 512, (int(random.integers(1, 5)), *shape)))


@needs_native
def test_what_is_tried_first_does_not_show() -> None:
    """The first run tries both ways: it gives what later ones give, with any number of threads."""
    graph = squares(-512, 511, operands("random", -512, 511, (33, 40, 3, 3), 1), (19, 17)).closed()
    x = operands("random", -512, 511, (5, 40, 19, 17), 2)
    expected = make_engine(graph, "reference").run(x)[graph.output]
    for threads in (1, 2, 3):
        for name in fast.USABLE:
            engine = NativeEngine(graph, threads, name)
            assert all(np.array_equal(engine.run(x)[graph.output], expected) for _ in range(3)), name
