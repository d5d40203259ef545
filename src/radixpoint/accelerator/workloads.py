"""A quantized network as the layers that models of accelerators take: Timeloop's and ZigZag's workload files.

Each layer of products becomes the loops around one multiplication, with the word length of each operand.
Timeloop (Parashar et al., ISPASS 2019) takes a problem a file, and word lengths with the memories of its
architecture; ZigZag (Mei et al., IEEE Transactions on Computers 2021) takes a list of layers, with
``operand_precision``. Both read YAML, of which JSON is a part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from radixpoint.ir.network import IntGraph, Step


@dataclass(frozen=True, slots=True)
class Loops:
    """One layer of products.

    Attributes:
        name: of the layer.
        groups, outputs, inputs: channels, the latter two of one group.
        places: rows and columns of the result.
        kernel, strides, dilations: likewise, rows first.
        pads: top, left, bottom, right.
        source: rows and columns of the operand.
        weight_bits, operand_bits, sum_bits: word lengths of what is multiplied and of the accumulator.
        result_bits: of what the sum is cast to.
        stored_bits: of the operand before the cast that made it. Others may read that too, so it is what
            lies in memory between two layers.
        before: the last layer of products that it depends on; None if that is the image.
    """

    name: str
    groups: int
    outputs: int
    inputs: int
    places: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    source: tuple[int, int]
    weight_bits: int
    operand_bits: int
    sum_bits: int
    result_bits: int
    stored_bits: int
    before: str | None

    @property
    def products(self) -> int:
        """Multiplications of one image."""
        return self.groups * self.outputs * self.inputs * _area(self.places) * _area(self.kernel)


def _area(sides: tuple[int, int]) -> int:
    return sides[0] * sides[1]


def _result_bits(network: IntGraph, step: Step) -> int:
    """Word length of what the first step behind it that rounds makes of a sum; its own if none does."""
    name = step.name
    while network.readers[name]:
        reader = network.readers[name][0]
        name = reader.name
        if reader.row.rounds:
            return network.tensors[name].format.word_length
    return network.tensors[step.name].format.word_length


def _stored_bits(network: IntGraph, name: str) -> int:
    """Word length of a tensor before the cast that made it; its own if only exact sums are before it."""
    own, steps = network.tensors[name].format.word_length, {step.name: step for step in network.steps}
    if name not in steps or not steps[name].row.rounds:
        return own
    before = source = steps[name].inputs[0]
    while before in steps and not steps[before].row.rounds:
        if steps[before].family == "product":
            return own
        before = steps[before].inputs[0]
    return network.tensors[source].format.word_length


def loops(network: IntGraph) -> list[Loops]:
    """Every convolution and fully connected layer of a network, in order."""
    found: list[Loops] = []
    nearest = {network.input: -1}  # place in what is found of the last layer that a tensor depends on
    for step in network.steps:
        nearest[step.name] = max(nearest[name] for name in step.inputs)
        if step.family != "product":
            continue
        source, result = network.tensors[step.inputs[0]], network.tensors[step.name]
        weight = network.parameters[step.parameters["weight"]]
        shape, a = weight.data.shape, step.attributes
        rows, columns = source.shape[1:] if len(source.shape) == 3 else (1, 1)
        down, across = result.shape[1:] if len(result.shape) == 3 else (1, 1)
        height, width = shape[2:] or (1, 1)
        groups = a.get("groups", 1)
        found.append(
            Loops(
                name=result.layer,
                groups=groups,
                outputs=shape[0] // groups,
                inputs=shape[1],
                places=(down, across),
                kernel=(height, width),
                strides=a.get("strides", (1, 1)),
                dilations=a.get("dilations", (1, 1)),
                pads=a.get("pads", (0, 0, 0, 0)),
                source=(rows, columns),
                weight_bits=weight.format.word_length,
                operand_bits=source.format.word_length,
                sum_bits=result.format.word_length,
                result_bits=_result_bits(network, step),
                stored_bits=_stored_bits(network, step.inputs[0]),
                before=found[nearest[step.name]].name if nearest[step.name] >= 0 else None,
            )
        )
        nearest[step.name] = len(found) - 1
    return found


def _timeloop(layer: Loops) -> dict[str, Any]:
    """A problem: R and P are columns, S and Q rows, as in Timeloop's own ``cnn_layer``."""
    group = [[["G"]]] if layer.groups > 1 else []
    spaces = {
        "Weights": [*group, [["C"]], [["M"]], [["R"]], [["S"]]],
        "Inputs": [
            *([["N"]], *group, [["C"]]),
            [["R", "Wdilation"], ["P", "Wstride"]],
            [["S", "Hdilation"], ["Q", "Hstride"]],
        ],
        "Outputs": [[["N"]], *group, [["M"]], [["Q"]], [["P"]]],
    }
    sizes = {
        **({"G": layer.groups} if group else {}),
        **{"C": layer.inputs, "M": layer.outputs, "N": 1},
        **{"P": layer.places[1], "Q": layer.places[0], "R": layer.kernel[1], "S": layer.kernel[0]},
    }
    factors = {
        **{"Wstride": layer.strides[1], "Hstride": layer.strides[0]},
        **{"Wdilation": layer.dilations[1], "Hdilation": layer.dilations[0]},
    }
    data = [{"name": name, "projection": projection} for name, projection in spaces.items()]
    shape = {
        "name": "CNN_Layer",
        "dimensions": list(sizes),
        "coefficients": [{"name": name, "default": 1} for name in factors],
        "data_spaces": [*data[:2], {**data[2], "read_write": True}],
    }
    return {"problem": {"version": 0.4, "shape": shape, "instance": {**sizes, **factors}}}


def _zigzag(number: int, layer: Loops, numbers: Mapping[str, int]) -> dict[str, Any]:
    group = "[g]" if layer.groups > 1 else ""
    sizes = {
        "B": 1,
        **({"G": layer.groups} if group else {}),
        **{"K": layer.outputs, "C": layer.inputs, "OY": layer.places[0], "OX": layer.places[1]},
        **{"FY": layer.kernel[0], "FX": layer.kernel[1]},
    }
    (sy, sx), (dy, dx), (top, left, bottom, right) = layer.strides, layer.dilations, layer.pads
    return {
        "id": number,
        "name": layer.name,
        "operator_type": "Conv",
        "equation": f"O[b]{group}[k][oy][ox]+=W{group}[k][c][fy][fx]*I[b]{group}[c][iy][ix]",
        "dimension_relations": [f"ix={sx}*ox+{dx}*fx", f"iy={sy}*oy+{dy}*fy"],
        "loop_dims": list(sizes),
        "loop_sizes": list(sizes.values()),
        "pr_loop_dims": ["IX", "IY"],
        "pr_loop_sizes": [layer.source[1], layer.source[0]],
        "padding": [[left, right], [top, bottom]],
        "operand_precision": {
            **{"W": layer.weight_bits, "I": layer.operand_bits},
            **{"O": layer.sum_bits, "O_final": layer.result_bits},
        },
        "operand_source": {"W": number, "I": number if layer.before is None else numbers[layer.before]},
    }


def timeloop_files(network: IntGraph) -> dict[str, str]:
    """A problem for each layer, by the name of its file; the first line of each says its word lengths."""
    files = {}
    for number, layer in enumerate(loops(network)):
        bits = (
            f"# {layer.name}: Weights {layer.weight_bits} bits, Inputs {layer.operand_bits}, Outputs "
            f"{layer.sum_bits}, cast to {layer.result_bits}: word_bits of the memories that hold them\n"
        )
        files[f"{number:03}.yaml"] = bits + json.dumps(_timeloop(layer), indent=1) + "\n"
    return files


def zigzag_files(network: IntGraph) -> dict[str, str]:
    """One list of layers; a layer's ``I`` comes from the last layer that it depends on."""
    found = loops(network)
    numbers = {layer.name: number for number, layer in enumerate(found)}
    layers = [_zigzag(number, layer, numbers) for number, layer in enumerate(found)]
    return {"workload.yaml": json.dumps(layers, indent=1) + "\n"}


WORKLOADS = {"timeloop": timeloop_files, "zigzag": zigzag_files}
"""By the name of the model that reads them."""
