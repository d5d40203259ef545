"""Accelerators of the paper's references: published figures beside the model's, and what bits save there.

    python benchmarks/accelerators.py

Prints the tables of docs/accelerators.md. It needs no network and no image: of a layer only its shape counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from radixpoint.accelerator.dataflows import InnerProduct, RowStationary, Run, run
from radixpoint.accelerator.target import HardwareTarget
from radixpoint.accelerator.workloads import Loops
from radixpoint.arithmetic.formats import FixedFormat, dot_format

DESIGNS = {"16 / 16": (16, 16), "10 / 16": (10, 16), "6 / 10": (6, 10), "6 / 8": (6, 8)}
"""Word lengths of the convolutions and of everything between them: one for all, the paper's, and two of ours.

Ours lose less than 1.0 point of the ResNet-50 of docs/results.md; no other network was tried with them.
"""
TARGETS = ("eyeriss", "diannao", "zynq-qiu")
IMAGES = 4
"""Of a batch, in Eyeriss' table V."""


def exact_sum_bits(bits: int, terms: int) -> int:
    """Of an accumulator that no sum of so many products overflows, whatever the weights are."""
    return dot_format(FixedFormat(True, bits, 0), FixedFormat(True, bits, 0), terms).word_length


def layer(
    name: str,
    inputs: int,
    outputs: int,
    kernel: int,
    side: int,
    stride: int = 1,
    groups: int = 1,
    pad: int = -1,
) -> Loops:
    """One convolution of square maps, at 16 bits; ``pad``: -1 keeps the side where the stride is 1."""
    pad = (kernel - 1) // 2 if pad < 0 else pad
    places = (side + 2 * pad - kernel) // stride + 1
    return Loops(
        name=name,
        groups=groups,
        outputs=outputs // groups,
        inputs=inputs // groups,
        places=(places, places),
        kernel=(kernel, kernel),
        strides=(stride, stride),
        dilations=(1, 1),
        pads=(pad, pad, pad, pad),
        source=(side, side),
        weight_bits=16,
        operand_bits=16,
        sum_bits=exact_sum_bits(16, inputs // groups * kernel**2),
        result_bits=16,
        stored_bits=16,
        before=None,
    )


def alexnet() -> Iterator[Loops]:
    yield layer("conv1", 3, 96, 11, 227, 4, pad=0)
    yield layer("conv2", 96, 256, 5, 27, groups=2)
    yield layer("conv3", 256, 384, 3, 13)
    yield layer("conv4", 384, 384, 3, 13, groups=2)
    yield layer("conv5", 384, 256, 3, 13, groups=2)
    yield layer("fc6", 256 * 6 * 6, 4096, 1, 1)
    yield layer("fc7", 4096, 4096, 1, 1)
    yield layer("fc8", 4096, 1000, 1, 1)


def vgg16() -> Iterator[Loops]:
    inputs = 3
    for block, (outputs, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for number in range(1, count + 1):
            yield layer(f"conv{block}_{number}", inputs, outputs, 3, 224 >> (block - 1))
            inputs = outputs
    yield layer("fc6", 512 * 7 * 7, 4096, 1, 1)
    yield layer("fc7", 4096, 4096, 1, 1)
    yield layer("fc8", 4096, 1000, 1, 1)


INCEPTIONS = {
    "3a": (28, 192, 64, 96, 128, 16, 32, 32),
    "3b": (28, 256, 128, 128, 192, 32, 96, 64),
    "4a": (14, 480, 192, 96, 208, 16, 48, 64),
    "4b": (14, 512, 160, 112, 224, 24, 64, 64),
    "4c": (14, 512, 128, 128, 256, 24, 64, 64),
    "4d": (14, 512, 112, 144, 288, 32, 64, 64),
    "4e": (14, 528, 256, 160, 320, 32, 128, 128),
    "5a": (7, 832, 256, 160, 320, 32, 128, 128),
    "5b": (7, 832, 384, 192, 384, 48, 128, 128),
}
"""Side, inputs, then outputs of: 1x1; 3x3 reduced, 3x3; 5x5 reduced, 5x5; 1x1 behind the pooling."""


def googlenet() -> Iterator[Loops]:
    yield layer("conv1/7x7_s2", 3, 64, 7, 224, 2)
    yield layer("conv2/3x3_reduce", 64, 64, 1, 56)
    yield layer("conv2/3x3", 64, 192, 3, 56)
    for name, (side, inputs, one, reduced3, three, reduced5, five, pooled) in INCEPTIONS.items():
        yield layer(f"{name}/1x1", inputs, one, 1, side)
        yield layer(f"{name}/3x3_reduce", inputs, reduced3, 1, side)
        yield layer(f"{name}/3x3", reduced3, three, 3, side)
        yield layer(f"{name}/5x5_reduce", inputs, reduced5, 1, side)
        yield layer(f"{name}/5x5", reduced5, five, 5, side)
        yield layer(f"{name}/pool_proj", inputs, pooled, 1, side)
    yield layer("classifier", 1024, 1000, 1, 1)


def resnet50() -> Iterator[Loops]:
    yield layer("conv1", 3, 64, 7, 224, 2)
    inputs, side = 64, 56
    for stage, (width, count) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 2):
        for block in range(count):
            stride = 2 if stage > 2 and block == 0 else 1
            name = f"res{stage}{'abcdef'[block]}"
            if block == 0:
                yield layer(f"{name}_branch1", inputs, 4 * width, 1, side, stride)
            yield layer(f"{name}_branch2a", inputs, width, 1, side, stride)
            side //= stride
            yield layer(f"{name}_branch2b", width, width, 3, side)
            yield layer(f"{name}_branch2c", width, 4 * width, 1, side)
            inputs = 4 * width
    yield layer("fc1000", 2048, 1000, 1, 1)


NETWORKS = {"AlexNet": alexnet, "VGG-16": vgg16, "GoogLeNet": googlenet, "ResNet-50": resnet50}


def shortened(layers: Sequence[Loops], conv: int, bn: int) -> list[Loops]:
    """With other words: operands of products, and what lies in memory between the layers."""
    return [
        dataclasses.replace(
            one,
            weight_bits=conv,
            operand_bits=conv,
            sum_bits=exact_sum_bits(conv, one.inputs * math.prod(one.kernel)),
            result_bits=bn,
            stored_bits=bn,
        )
        for one in layers
    ]


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def head(title: str, *cells: str) -> None:
    print(f"\n{title}\n")
    row(*cells)
    row(*("---" for _ in cells))


def milliseconds(target: HardwareTarget, clocks: float) -> float:
    assert target.clock.megahertz is not None
    return clocks / target.clock.megahertz / 1e3


def off(found: float, published: float) -> str:
    return f"{100 * (found / published - 1):+.1f} %"


MAPPED = {
    "conv1": {"m": 96, "n": 1, "e": 7, "p": 16, "q": 1, "r": 1, "t": 2},
    "conv2": {"m": 64, "n": 1, "e": 27, "p": 16, "q": 2, "r": 1, "t": 1},
    "conv3": {"m": 64, "n": 4, "e": 13, "p": 16, "q": 4, "r": 1, "t": 4},
    "conv4": {"m": 64, "n": 4, "e": 13, "p": 16, "q": 3, "r": 2, "t": 2},
    "conv5": {"m": 64, "n": 4, "e": 13, "p": 16, "q": 3, "r": 2, "t": 2},
}
"""JSSC 2017, table III."""
BUFFER_MB = {"conv1": 18.5, "conv2": 77.6, "conv3": 50.2, "conv4": 37.4, "conv5": 24.9}
PROCESSING_MS = {"conv1": 16.5, "conv2": 39.2, "conv3": 21.8, "conv4": 16.0, "conv5": 10.0}
"""JSSC 2017, table V: accesses of the buffer and processing latency of four images."""


def eyeriss_chip() -> None:
    target = HardwareTarget.load("eyeriss")
    assert isinstance(target.dataflow, RowStationary)
    head(
        "Eyeriss, AlexNet, four images: accesses of the buffer, and time",
        *("layer", "mapping", "buffer, MB: published", "model", "off", "ms: published", "model", "off"),
    )
    for one in list(alexnet())[:5]:
        mappings = {"table III": MAPPED[one.name]}
        if one.name == "conv3":
            mappings["that of conv4"] = MAPPED["conv4"]
        for which, mapping in mappings.items():
            found = target.dataflow.mapped(one, **mapping)
            megabytes = IMAGES * found.words("buffer") * 2 / 1e6
            time = IMAGES * milliseconds(target, found.clocks)
            published, latency = BUFFER_MB[one.name], PROCESSING_MS[one.name]
            row(
                *(one.name, which, published, f"{megabytes:.1f}", off(megabytes, published)),
                *(latency, f"{time:.1f}", off(time, latency)),
            )


ENERGY = {
    "conv1": (1.69, 2.46, 6.75),
    "conv2": (3.58, 2.27, 14.33),
    "conv3": (2.39, 2.02, 9.57),
    "conv4": (1.79, 1.57, 7.18),
    "conv5": (1.20, 1.05, 4.78),
    "fc6": (0.60, 7.78, 2.42),
    "fc7": (0.27, 3.39, 1.07),
    "fc8": (0.07, 0.84, 0.26),
}
"""ISCA 2016, figure 10, row stationary, 16 images, in 10^9 multiply-accumulates: arithmetic, DRAM, registers.

The figure has bars; its numbers are those that the tests of nn_dataflow (github.com/stanford-mast) hold.
"""


def eyeriss_study() -> None:
    chip = HardwareTarget.load("eyeriss").dataflow
    assert isinstance(chip, RowStationary)
    study = replace(chip, rows=16, columns=16, buffer=128.0, batch=16, least="energy")
    head(
        "Eyeriss' study, AlexNet, 16 images: energy in 10^9 multiply-accumulates",
        *("layer", "arithmetic: published", "model", "registers: published", "model"),
        *("DRAM: published", "model", "all three, off"),
    )
    for one in alexnet():
        found, published = study.layer(one), ENERGY[one.name]
        energies = Run((found,)).energies
        own = [16 * energies[what] / 1e9 for what in ("arithmetic", "DRAM", "registers")]
        arithmetic, outside, registers = (
            cell for pair in zip(published, own, strict=True) for cell in [(pair[0], f"{pair[1]:.2f}")]
        )
        row(one.name, *arithmetic, *registers, *outside, off(sum(own), sum(published)))


def diannao() -> None:
    target = HardwareTarget.load("diannao")
    assert isinstance(target.dataflow, InnerProduct)
    assert target.clock.megahertz is not None
    head("DianNao: peaks, in units of 2^30", "figure", "published", "model", "off")
    peak = target.dataflow.operations * target.clock.megahertz * 1e6 / 2**30
    row("operations a second (GOP/s)", 452, f"{peak:.1f}", off(peak, 452))
    weights = target.dataflow.outputs * target.dataflow.inputs * 2 * target.clock.megahertz * 1e6 / 2**30
    row("weights a second (GB/s), as DaDianNao quotes it", 467.30, f"{weights:.2f}", off(weights, 467.30))


QIU_MS = {
    "conv1": (21.41, 31.29),
    "conv2": (16.06, 23.58),
    "conv3": (26.76, 39.29),
    "conv4": (26.76, 36.30),
    "conv5": (32.11, 32.95),
    "fc6, first": (10.45, 20.17),
    "fc6, second": (1.71, 3.75),
    "fc7": (13.98, 30.02),
    "fc8": (3.413, 7.244),
}
"""FPGA 2016: theoretical and measured time of VGG-16; the first fully connected layer is split by its SVD."""


def qiu() -> None:
    target = HardwareTarget.load("zynq-qiu")
    assert target.dataflow is not None
    split = [layer("fc6, first", 512 * 7 * 7, 500, 1, 1), layer("fc6, second", 500, 4096, 1, 1)]
    layers = [one for one in vgg16() if one.name != "fc6"] + split
    times: dict[str, float] = {}
    for one in run(target.dataflow, layers).layers:
        name = one.layer.name.partition("_")[0]
        times[name] = times.get(name, 0.0) + milliseconds(target, one.clocks)
    head("Qiu et al., VGG-16, ms", "layers", "published, theoretical", "model", "off", "published, measured")
    total = [0.0, 0.0, 0.0]
    for name, (theory, measured) in QIU_MS.items():
        row(name, theory, f"{times[name]:.2f}", off(times[name], theory), measured)
        total = [a + b for a, b in zip(total, (theory, times[name], measured), strict=True)]
    row("all", f"{total[0]:.2f}", f"{total[1]:.2f}", off(total[1], total[0]), f"{total[2]:.2f}")


def saved(whole_sums: bool) -> None:
    sums = "whole" if whole_sums else "cut to 16 bits, as in the chips"
    first, *others = DESIGNS
    head(
        f"An image, unfinished sums {sums}",
        *("network", "accelerator", "ms", f"energy at {first}, 10^9", *(f"at {name}" for name in others)),
        *(f"DRAM at {first}, MB", *(f"at {name}" for name in others)),
    )
    for network, make in NETWORKS.items():
        layers = list(make())
        for name in TARGETS:
            target = HardwareTarget.load(name)
            assert target.dataflow is not None
            model = replace(target.dataflow, sums=None) if whole_sums else target.dataflow
            runs = [run(model, shortened(layers, *words)) for words in DESIGNS.values()]
            energies = [run.energy / 1e9 for run in runs]
            outside = [run.memories["DRAM"] / 8e6 for run in runs]
            cells = [
                cell
                for own in (energies, outside)
                for cell in (f"{own[0]:,.1f}", *(f"{100 * one / own[0]:.0f} %" for one in own[1:]))
            ]
            row(network, name, f"{milliseconds(target, runs[0].clocks):.1f}", *cells)


def main() -> None:
    eyeriss_chip()
    eyeriss_study()
    diannao()
    qiu()
    saved(whole_sums=False)
    saved(whole_sums=True)


if __name__ == "__main__":
    main()
