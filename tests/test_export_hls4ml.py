"""hls4ml takes the configuration; its C simulation of a small network against ours, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import exports
import networks
from radixpoint.engines import make_engine, quantize_images
from radixpoint.errors import ExportError
from radixpoint.export import export_network
from radixpoint.importers import load
from radixpoint.ir.network import IntGraph
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize

pytestmark = pytest.mark.slow("it compiles")

SHAPE = (3, 8, 8)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = (
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
        )
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(6), nn.ReLU()
        self.flatten, self.fc = nn.Flatten(), nn.Linear(24, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))
        return self.fc(self.flatten(self.relu2(self.bn2(self.conv2(x)))))


def trained() -> Small:
    torch.manual_seed(0)
    module = Small().eval()
    with torch.no_grad():
        for bn in (module.bn1, module.bn2):
            bn.running_mean.uniform_(-0.3, 0.3)
            bn.running_var.uniform_(0.3, 2.0)
            bn.weight.uniform_(0.4, 1.4)
            bn.bias.uniform_(-0.3, 0.3)
    return module


def with_stored_values(module: Small, network: IntGraph) -> Small:
    """The module whose parameters are the quantized ones, so that hls4ml has nothing left to round."""

    def real(key: str) -> torch.Tensor:
        p = network.parameters[key]
        return torch.tensor(np.ldexp(p.data, -p.format.fractions(p.data.ndim)), dtype=torch.float32)

    with torch.no_grad():
        for name in ("conv1", "conv2"):
            getattr(module, name).weight.copy_(real(f"{name}/weight"))
        for name in ("bn1", "bn2"):
            bn = getattr(module, name)
            bn.eps = 0.0
            bn.running_mean.zero_()
            bn.running_var.fill_(1.0)
            bn.weight.copy_(real(f"{name}/scale").ravel())
            bn.bias.copy_(real(f"{name}/offset").ravel())
        module.fc.weight.copy_(real("fc/weight"))
        module.fc.bias.copy_(real("fc/bias").ravel())
    return module


@pytest.mark.parametrize("rounding", ["RND", "RND_CONV"])
def test_hls4ml_computes_the_same(rounding: str, tmp_path: Path) -> None:
    import hls4ml

    module = trained()
    graph = load(module, SHAPE)
    design = Design.separate(conv=8, bn=12, rounding=rounding)
    network = quantize(graph, exports.networks.calibrated(graph), design)
    export_network(network, "hls4ml", tmp_path / "x")
    assert json.loads((tmp_path / "x" / "differences.json").read_text()) == {}
    ours = json.loads((tmp_path / "x" / "hls4ml_config.json").read_text())

    module = with_stored_values(module, network)
    config = hls4ml.utils.config_from_pytorch_model(
        module, SHAPE, granularity="name", backend="Vitis", channels_last_conversion="full"
    )
    ours["LayerName"]["x"] = ours["LayerName"].pop("input")  # hls4ml names the input by forward's argument
    assert set(ours["LayerName"]) <= set(config["LayerName"])
    for name, layer in ours["LayerName"].items():
        config["LayerName"][name]["Precision"].update(layer["Precision"])
    for layer in config["LayerName"].values():
        layer["Trace"] = True
    config["SkipOptimizers"] = ours["SkipOptimizers"]
    theirs = hls4ml.converters.convert_from_pytorch_model(
        module, hls_config=config, output_dir=str(tmp_path / "p"), backend="Vitis", io_type="io_parallel"
    )
    theirs.compile()
    stored = quantize_images(network, networks.images(8, 3, SHAPE).inputs(0, 8))
    source = network.tensors[network.input].format
    real = np.ldexp(stored.astype(np.float32), -source.fraction_lengths[0])
    logits, trace = theirs.trace(np.ascontiguousarray(real))

    results = make_engine(network).run(stored, list(network.tensors))
    operands = {"pool": "conv2/1.cast", "relu2": "fc/1.cast"}  # casts sit in the result of the layer before
    values = {t.value: n for n, t in network.tensors.items()}
    compared = []
    for layer in ("conv1", "bn1", "relu1", "pool", "conv2", "bn2", "relu2", "fc"):
        name = operands.get(layer, values[layer])
        expected = np.ldexp(results[name], -network.tensors[name].format.fraction_lengths[0])
        got = trace[layer].astype(np.float64)
        if got.ndim == 4:
            got = got.transpose(0, 3, 1, 2)
        assert np.array_equal(got.reshape(expected.shape), expected), layer
        compared.append(layer)
    assert len(compared) == 8
    expected = np.ldexp(results[network.output], -network.tensors[network.output].format.fraction_lengths[0])
    assert np.array_equal(np.asarray(logits, np.float64), expected)


def test_what_hls4ml_cannot_say(tmp_path: Path) -> None:
    graph = networks.residual()
    for options, reason in (
        ({"batch_norm": "staged"}, "one multiplication a batch normalization"),
        ({"binary_point": {"scope": "channel", "rule": "max"}}, "no binary point a channel"),
        ({"rounding": "STOCHASTIC", "average_pool": "reciprocal"}, "STOCHASTIC|reciprocal"),
    ):
        with pytest.raises(ExportError, match=reason):
            export_network(exports.quantized(graph, **options), "hls4ml", tmp_path / "x")
    n = networks.Net(0)
    x = n.simple("relu", n.bn(n.conv("input", 4)))
    x = n.add(x, n.bn(n.conv(x, 4)))
    graph = n.graph(n.fc(n.simple("flatten", x), 4 * 12 * 12, 7))
    export_network(exports.quantized(graph), "hls4ml", tmp_path / "x")
    differences = json.loads((tmp_path / "x" / "differences.json").read_text())
    (text,) = differences.values()  # the residual stream is read narrow and wide
    assert "another format" in text
