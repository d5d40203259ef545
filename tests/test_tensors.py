"""The engine on PyTorch's tensors: products by digits of int8, the process's settings, devices.

That it equals the reference on every tensor is seen wherever ``fast.agree`` is: it is one of those engines.
Here the digits, which a GPU alone uses, are multiplied on the processor by what stands in for its product.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fast
import networks
from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.cli.main import app
from radixpoint.engines import ReferenceEngine, check_engine, make_engine, quantize_images, tensors
from radixpoint.errors import EngineError
from radixpoint.ir.network import IntTensor
from radixpoint.measure.evaluate import first_mismatch
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import Quantizer

CPU = torch.device("cpu")
GRAPH = networks.residual()
QUANTIZER = Quantizer(GRAPH, networks.calibrated(GRAPH))
STORED = networks.images(5, 1, GRAPH.shapes["input"]).inputs(0, 5)


def stand_in(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """What a GPU's product of int8 gives, with its demands."""
    assert a.dtype == b.dtype == torch.int8
    assert a.is_contiguous()
    assert a.shape[0] > 16
    assert a.shape[1] % 8 == b.shape[1] % 8 == 0
    return (a.to(torch.int64) @ b.to(torch.int64)).to(torch.int32)


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "INT8", ("cpu", "cuda"))
    monkeypatch.setattr(torch, "_int_mm", stand_in)


@pytest.mark.parametrize(
    ("low", "high", "top", "products"),
    [
        (-128, 127, -128, 1),
        (0, 255, 127, 1),
        (-8, 7, 7, 1),
        (0, 255, 128, 2),
        (-512, 511, -512, 4),
        (0, 65535, -32640, 4),
        (-32768, 32767, 32639, 4),
        (3, 250, 100, 1),
    ],
)
def test_digits_at_their_ends(
    low: int, high: int, top: int, products: int, digits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operands at both ends of what so many digits hold, and sums as large as they come."""
    calls: list[int] = []

    def counted(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return stand_in(a, b)

    monkeypatch.setattr(torch, "_int_mm", counted)
    source = IntTensor((67,), TensorFormat(low < 0, 17, (0,)), low, high, "x", None)
    random = np.random.default_rng(0)
    rows = random.choice([top, -top - 1, 0, 1, -1], (21, 67))
    rows[:3] = top
    x = random.choice([low, high, 0], (9, 67))
    x[:2] = [[low], [high]]
    network = QUANTIZER.quantize(Design.joint(8))
    product = tensors._Compiler(network, CPU)._product(rows, source)
    assert np.array_equal(product([torch.from_numpy(x).to(tensors._carrier(source))]).numpy(), x @ rows.T)
    assert len(calls) == products


@pytest.mark.parametrize("word", [2, 5, 8, 9, 12, 16])
@pytest.mark.parametrize("unsigned", [False, True])
def test_networks_by_digits(word: int, unsigned: bool, digits: None) -> None:
    quantized = QUANTIZER.quantize(Design.joint(word, unsigned=unsigned))
    stored = quantize_images(quantized, STORED)
    assert (
        first_mismatch(quantized, ReferenceEngine(quantized), make_engine(quantized, "torch"), stored) is None
    )


def test_one_digit_lost_is_seen(digits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_balanced", lambda values: [(values + 128) % 256 - 128])
    quantized = QUANTIZER.quantize(Design.joint(12))
    stored = quantize_images(quantized, STORED)
    assert first_mismatch(quantized, ReferenceEngine(quantized), make_engine(quantized, "torch"), stored)


def test_networks_of_every_step() -> None:
    varied = networks.varied()
    quantized = Quantizer(varied, networks.calibrated(varied)).quantize(Design.separate(8, 12))
    inputs = networks.images(3, 1, varied.shapes[varied.input]).inputs(0, 3)
    stored = quantize_images(quantized, inputs)
    assert (
        first_mismatch(quantized, ReferenceEngine(quantized), make_engine(quantized, "torch"), stored) is None
    )


def test_the_process_keeps_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 and bfloat16 are off within, and as they were behind, even if they differ from place to place."""
    quantized = QUANTIZER.quantize(Design.joint(8))
    seen: list[tuple[str, int]] = []
    inner = tensors._float_product

    def watched(*arguments: object) -> tensors.Compiled:
        product = inner(*arguments)  # type: ignore[arg-type]

        def run(inputs: list[torch.Tensor]) -> torch.Tensor:
            seen.append((torch.get_float32_matmul_precision(), torch.get_num_threads()))
            return product(inputs)

        return run

    monkeypatch.setattr(tensors, "_float_product", watched)
    engine = make_engine(quantized, "torch", 1)
    torch.set_float32_matmul_precision("medium")
    threads = torch.get_num_threads()
    try:
        engine.run(quantize_images(quantized, STORED))
        assert set(seen) == {("highest", 1)}
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_num_threads() == threads
    finally:
        torch.set_float32_matmul_precision("highest")
    matmul = torch.backends.mkldnn.matmul
    matmul.fp32_precision = "bf16"
    try:
        engine.run(quantize_images(quantized, STORED))
        assert matmul.fp32_precision == "bf16"
    finally:
        matmul.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized = QUANTIZER.quantize(Design.joint(8))
    stored = quantize_images(quantized, STORED)
    monkeypatch.setitem(tensors.CHUNK, "cpu", 1)
    got = make_engine(quantized, "torch").run(stored)[quantized.output]
    assert np.array_equal(got, ReferenceEngine(quantized).run(stored)[quantized.output])


def test_devices_that_are_not_here() -> None:
    for name in ("torch:cuda:7", "torch:abacus", "torch:cpu:-3"):
        with pytest.raises(EngineError, match=r"device '.*': expected one that is here"):
            check_engine(name)
    with pytest.raises(EngineError, match="expected auto"):
        check_engine("blas:cpu")


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radixpoint.engines.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"radixpoint\[torch\]"):
        check_engine("torch")


def test_the_command_line() -> None:
    common = ["evaluate", "m.onnx", "--network", "n.safetensors", "--images", "i", "--device", "cpu"]
    refused = CliRunner().invoke(app, common)
    assert refused.exit_code
    assert "--device cpu with --engine auto: expected --engine torch" in str(refused.exception)
    found = CliRunner().invoke(app, ["inspect", "--engines", "--json"])
    assert '"torch"' in found.stdout


def test_fast_includes_it() -> None:
    quantized = QUANTIZER.quantize(Design.joint(8))
    assert "torch" in dict(fast.fast_engines(quantized))
