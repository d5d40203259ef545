"""A precision configuration for hls4ml: the found word lengths, layer by layer.

hls4ml names the layers of a torch module by their paths with ``_`` for ``.``; the configuration is for
``hls4ml.converters.convert_from_pytorch_model``. What hls4ml then computes is its own: docs/export.md says
which operators agree with ours and which cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.engines import Engine
from radixpoint.errors import ExportError
from radixpoint.export.target import FIXED_POINT
from radixpoint.ir.network import IntGraph, Step
from radixpoint.ir.plan import Ints

FILE = "hls4ml_config.json"
DIFFERENCES = "differences.json"
"""By layer, what the configuration cannot say."""


def _precision(form: TensorFormat, modes: str = "RND,SAT") -> str:
    signed = "" if form.signed else "u"
    fraction = form.fraction_lengths[0]
    return f"{signed}fixed<{form.word_length},{form.word_length - fraction},{modes}>"


class _Config:
    """Collects the precisions of each layer; the first reason why one cannot be said ends it."""

    def __init__(self, network: IntGraph) -> None:
        self.network = network
        self.layers: dict[str, dict[str, Any]] = {}
        self.differences: dict[str, str] = {}

    def _form(self, layer: str, form: TensorFormat) -> TensorFormat:
        if form.per_channel:
            raise ExportError(f"layer {layer!r}: hls4ml has no binary point a channel")
        return form

    def _modes(self, step: Step) -> str:
        if step.attributes["rounding"] == "STOCHASTIC":
            layer = self.network.tensors[step.name].layer
            raise ExportError(f"layer {layer!r}: cast: hls4ml has no STOCHASTIC rounding")
        return f"{step.attributes['rounding']},{step.attributes['overflow']}"

    def _set(self, layer: str, role: str, precision: str) -> None:
        self.layers.setdefault(layer.replace(".", "_"), {}).setdefault("Precision", {})[role] = precision

    def _operand(self, step: Step) -> None:
        """A cast at a layer's input: hls4ml has none, so it becomes the result of the layer before."""
        (source,) = step.inputs
        readers = list(self.network.readers[source])
        made_by = {s.name: s for s in self.network.steps}
        while source in made_by and made_by[source].op == "flatten" and len(readers) == 1:
            (source,) = made_by[source].inputs  # hls4ml's Reshape converts nothing
            readers = [step if s.op == "flatten" else s for s in self.network.readers[source]]
        before, to = self.network.tensors[source].layer, self.network.tensors[step.name].format
        if source == self.network.input or any(
            s.op != "cast" or self.network.tensors[s.name].format != to for s in readers
        ):
            layer = self.network.tensors[step.name].layer
            self.differences[layer] = (
                f"reads {before!r} as {to}, others read it in another format; hls4ml gives a tensor one "
                f"format, so this layer sees {self.network.tensors[source].format}"
            )
            return
        self._set(before, "result", _precision(self._form(before, to), self._modes(step)))

    def make(self) -> dict[str, Any]:
        network = self.network
        source = network.tensors[network.input]
        self._set(source.layer, "result", _precision(self._form(source.layer, source.format)))
        for step in network.steps:
            tensor = network.tensors[step.name]
            layer = tensor.layer
            if step.family == "product":
                weight = network.parameters[step.parameters["weight"]].format
                self._set(layer, "weight", _precision(self._form(layer, weight)))
                self._set(layer, "accum", _precision(self._form(layer, tensor.format), "TRN,WRAP"))
            elif step.op == "scale" and "scale" in step.parameters["factor"].rsplit("/", 1)[-1]:
                factor = network.parameters[step.parameters["factor"]].format
                self._set(layer, "scale", _precision(self._form(layer, factor)))
            elif step.op == "scale":
                raise ExportError(
                    f"layer {layer!r}: hls4ml has one multiplication a batch normalization and no reciprocal "
                    "pooling: expected the forms affine or folded, and average_pool division"
                )
            elif step.op == "offset":
                value = network.parameters[step.parameters["value"]].format
                self._set(layer, "bias", _precision(self._form(layer, value)))
                if "accum" in self.layers[layer.replace(".", "_")]["Precision"]:
                    self._set(layer, "accum", _precision(self._form(layer, tensor.format), "TRN,WRAP"))
            if step.op == "cast" and network.tensors[step.inputs[0]].layer != layer:
                self._operand(step)
            elif step.op == "cast":
                self._set(layer, "result", _precision(self._form(layer, tensor.format), self._modes(step)))
            elif step.op in ("clamp", "add", "max_pool", "sum_pool"):
                self._set(layer, "result", _precision(self._form(layer, tensor.format), "TRN,WRAP"))
        return {
            "Model": {"Precision": {"default": "fixed<16,6>"}, "ReuseFactor": 1, "Strategy": "Latency"},
            "LayerName": self.layers,
            # batch normalization keeps its own representation
            "SkipOptimizers": ["fuse_batch_normalization"],
        }


class Hls4mlTarget:
    """``--to hls4ml``."""

    name = "hls4ml"
    summary = "a per-layer precision configuration for hls4ml"
    options: tuple[str, ...] = ()
    steps = FIXED_POINT
    several_outputs = False

    def files(self, network: IntGraph, images: Ints, options: Mapping[str, str]) -> dict[str, bytes]:
        """See ``radixpoint.export.target.Target``."""
        config = _Config(network)
        contents = {FILE: config.make(), DIFFERENCES: config.differences}
        return {n: msgspec.json.format(msgspec.json.encode(c), indent=2) + b"\n" for n, c in contents.items()}

    def open(self, folder: Path, network: IntGraph, scratch: Path) -> dict[str, Engine]:
        """See ``radixpoint.export.target.Target``."""
        raise ExportError(
            f"{folder}: a configuration computes nothing: convert your module with it (docs/export.md); for "
            "C++ that is verified, export --to hls"
        )
