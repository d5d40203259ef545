"""Post-training quantization of the same network on the same images by radixpoint and by other tools.

    python benchmarks/quantizers.py --data DATA [--images 5000] [--bits 8 6 5 4] [--skip TOOL ...]
                                    [--epochs 20] [--ways WAY ...]

onnxruntime: ``quantize_static``, 8 bits, QDQ, a real-valued scale a channel for weights and a tensor for
activations, over the network it has fused batch normalization into. Brevitas: its ``layerwise`` flow for CNNs
(batch normalization merged, layers equalized, percentile 99.99), power-of-two scales, a scale a channel for
weights, bias correction; nearest rounding, GPTQ, GPFQ, learned rounding (AdaRound's, layer by layer, 200
steps of 8 images each), and trained quantized: its straight-through quantizers, with the float network as the
teacher, for ``--epochs``. Every convolution and the fully connected layer has the given width, additions are
in float. radixpoint: power-of-two scales, a binary point a channel, batch normalization in
place at 16 bits; nearest rounding, refined by offsets and columns, by blocks; everything in integers. All see
the same 500 of the calibration images. DATA is described in ``resnet50.py``. Prints a Markdown table, a line
when it is known.

Needs ``brevitas``, ``accelerate``, ``pyyaml``, ``tqdm`` and ``torch`` beside radixpoint.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import radixpoint
from radixpoint.engines import make_engine, quantize_images
from radixpoint.measure.evaluate import summarize
from radixpoint.measure.float_model import to_onnx
from radixpoint.measure.floating import FloatingEngine
from radixpoint.measure.metrics import BATCH, TopK, ranks
from radixpoint.measure.outcomes import NO_OUTCOMES, Outcomes
from resnet50 import Data

CALIBRATION = 500


def judged(run: Callable[[np.ndarray], np.ndarray], images: Any) -> Outcomes:
    """Outcomes of a function from images to logits."""
    result = NO_OUTCOMES
    for start in range(0, len(images), BATCH):
        inputs = images.inputs(start, min(start + BATCH, len(images)))
        result = result.joined(ranks(run(inputs), images.labels[start : start + BATCH]))
    return result


def with_onnxruntime(graph: Any, calibration: np.ndarray, method: str) -> Callable[[np.ndarray], np.ndarray]:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(np.split(calibration, len(calibration) // 50))

        def get_next(self) -> Any:
            batch = next(self.batches, None)
            return None if batch is None else {graph.input: batch}

    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("float.onnx", "ready.onnx", "quantized.onnx")]
        onnx.save(to_onnx(graph, [graph.output]), paths[0])
        quant_pre_process(paths[0], paths[1])
        quantize_static(
            *(paths[1], paths[2], Reader()),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            calibrate_method=CalibrationMethod[method],
            extra_options={"CalibPercentile": 99.99},
        )
        # as the graph says it, in float: the fused integer kernels give other results without VNNI
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(paths[2], options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, {graph.input: inputs})[0]


def module(graph: Any) -> Any:
    """The network as an ``nn.Module``, layer for layer."""
    import torch
    from torch import nn

    made = {}
    for layer in graph.layers:
        if layer.op == "conv":
            weight = graph.parameter(layer, "weight")
            outputs, inputs, kernel, _ = weight.shape
            stride, padding = layer.attributes["strides"], layer.attributes["pads"][:2]
            made[layer.name] = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        elif layer.op == "batch_norm":
            made[layer.name] = nn.BatchNorm2d(
                len(graph.parameter(layer, "gamma")), layer.attributes["epsilon"]
            )
        elif layer.op == "fc":
            made[layer.name] = nn.Linear(*graph.parameter(layer, "weight").shape[::-1])
        elif layer.op == "max_pool":
            a = layer.attributes
            made[layer.name] = nn.MaxPool2d(a["kernel"], a["strides"], a["pads"][:2])
        elif layer.op == "average_pool":
            made[layer.name] = nn.AdaptiveAvgPool2d(1)
        elif layer.op == "relu":
            made[layer.name] = nn.ReLU()
    renamed = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}
    for layer in graph.layers:
        for role in layer.parameters:
            target = getattr(made[layer.name], renamed.get(role, role))
            target.data.copy_(torch.from_numpy(np.array(graph.parameter(layer, role))))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, one in made.items():
                self.add_module(name.replace(".", "_").replace("/", "_"), one)

        def forward(self, image: Any) -> Any:
            values = {graph.input: image}
            for layer in graph.layers:
                x = [values[name] for name in layer.inputs]
                if layer.op == "add":
                    values[layer.name] = x[0] + x[1]
                elif layer.op == "flatten":
                    values[layer.name] = torch.flatten(x[0], 1)
                else:
                    one = getattr(self, layer.name.replace(".", "_").replace("/", "_"))
                    values[layer.name] = one(x[0])
            return values[graph.output]

    return Network().eval()


WAYS = ("", "GPTQ", "GPFQ", "learned rounding", "trained quantized")
"""Of Brevitas."""


def trained_quantized(model: Any, graph: Any, calibration: np.ndarray, epochs: int) -> None:
    """Train all parameters of a model so that it answers as the float network does."""
    import torch
    from torch.nn import functional

    from radixpoint.quantization.training import paced

    torch.manual_seed(0)
    teacher, optimizer, batch = FloatingEngine(graph, threads=1), torch.optim.Adam(model.parameters()), 32
    steps = epochs * (len(calibration) // batch)
    for done in range(steps):
        if done % (len(calibration) // batch) == 0:
            order = torch.randperm(len(calibration))
        chosen = order[done % (len(calibration) // batch) * batch :][:batch]
        images = calibration[chosen.numpy()]
        images = images[..., ::-1].copy() if torch.rand(()) < 0.5 else images
        optimizer.param_groups[0]["lr"] = 1e-4 * paced(done, steps)
        ours = functional.log_softmax(model(torch.from_numpy(images)), 1)
        theirs = functional.log_softmax(torch.from_numpy(teacher.run(images)[graph.output]), 1)
        loss = functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def with_brevitas(
    graph: Any, calibration: np.ndarray, bits: int, way: str, epochs: int
) -> Callable[[np.ndarray], np.ndarray]:
    import torch
    from brevitas.graph.quantize import preprocess_for_quantize
    from brevitas_examples.imagenet_classification.ptq import ptq_common

    batches = [(torch.from_numpy(x), torch.zeros(50)) for x in np.split(calibration, len(calibration) // 50)]
    model = preprocess_for_quantize(module(graph), equalize_iters=20, equalize_merge_bias=True, merge_bn=True)
    model = ptq_common.quantize_model(
        model,
        backend="layerwise",
        weight_bit_width=bits,
        act_bit_width=bits,
        bias_bit_width=32,
        weight_quant_granularity="per_channel",
        act_quant_percentile=99.99,
        act_quant_type="sym",
        scale_factor_type="po2_scale",
        quant_format="int",
        layerwise_first_last_bit_width=bits,
    ).eval()
    with torch.no_grad():
        model(batches[0][0])
        ptq_common.calibrate(batches, model)
        if way == "GPTQ":
            ptq_common.apply_gptq(batches, model)
        if way == "GPFQ":
            ptq_common.apply_gpfq(batches, model, act_order=False)
    if way == "learned rounding":
        from brevitas_examples.imagenet_classification.ptq.learned_round_utils import apply_learned_round
        from brevitas_examples.imagenet_classification.ptq.ptq_imagenet_args import create_args_parser

        asked = ["--model-name", "resnet50", "--learned-round", "hard_sigmoid"]
        asked += ["--learned-round-iters", "200", "--learned-round-batch-size", "8"]
        apply_learned_round(model, batches, create_args_parser().parse_args(asked))
    if way == "trained quantized":
        trained_quantized(model, graph, calibration, epochs)
    with torch.no_grad():
        if way != "trained quantized":
            ptq_common.apply_bias_correction(batches, model)

    def run(inputs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(model(torch.from_numpy(inputs)))

    return run


def with_radixpoint(
    graph: Any, calibration: radixpoint.ImageSet, bits: int, refine: list[str]
) -> Callable[[np.ndarray], np.ndarray]:
    design = radixpoint.Design.separate(
        bits, 16, binary_point={"scope": "channel", "rule": "loss"}, unsigned=True, refine=refine
    )
    network = radixpoint.quantize(graph, radixpoint.calibrate(graph, calibration), design, calibration)
    engine = make_engine(network)
    return lambda inputs: engine.run(quantize_images(network, inputs))[network.output]


def rows(arguments: Any, calibration: radixpoint.ImageSet) -> Iterator[tuple[str, str, Any]]:
    if "radixpoint" not in arguments.skip:
        for bits in arguments.bits:
            for refine in ([], ["offsets", "columns"], ["blocks"]):
                name = "radixpoint, power-of-two scales" + (f", {' + '.join(refine)}" if refine else "")
                yield name, str(bits), lambda g, c, b=bits, r=refine: with_radixpoint(g, calibration, b, r)
    if "onnxruntime" not in arguments.skip:
        for method in ("MinMax", "Percentile"):
            name = f"onnxruntime, real-valued scales, {method}"
            yield name, "8", lambda g, c, m=method: with_onnxruntime(g, c, m)
    if "brevitas" not in arguments.skip:
        for bits in arguments.bits:
            for way in arguments.ways:
                name = "Brevitas, power-of-two scales" + (f", {way}" if way else "")
                yield name, str(bits), lambda g, c, b=bits, w=way: with_brevitas(g, c, b, w, arguments.epochs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 6, 5, 4])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--skip", nargs="*", default=[], choices=["radixpoint", "onnxruntime", "brevitas"])
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]
    data = Data(arguments.data, arguments.images)
    graph, images, calibration = data.graph, data.images, data.calibration.first(CALIBRATION)
    seen = calibration.inputs(0, CALIBRATION)
    engine = FloatingEngine(graph)
    reference = judged(lambda inputs: engine.run(inputs)[graph.output], images)
    print(
        "| tool | bits | top-1 | drop | agrees with float | seconds to quantize |\n|---|---|---|---|---|---|"
    )
    for name, bits, make in rows(arguments, calibration):
        started = time.time()
        run = make(graph, seen)
        seconds = time.time() - started
        e = summarize(reference, judged(run, images), TopK(1))
        low, high = e.drop_interval
        print(
            f"| {name} | {bits} | {e.top1:.2f} % | {e.drop:+.2f} [{low:+.2f}, "
            f"{high:+.2f}] | {e.agreement:.2f} % | "
            f"{seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
