"""Importers: a model file or module becomes a ``radixpoint.ir.graph.Graph``.

Batch normalization stays a layer of its own: importing never folds it. An importer, and its framework, is
imported only when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from radixpoint.errors import ModelError
from radixpoint.ir.graph import Graph


def load(model: Any, input_shape: Sequence[int] | None = None, weights: str | Path | None = None) -> Graph:
    """Read a trained network.

    Args:
        model: the path of an ONNX model (``.onnx``), of a Caffe description (``.prototxt``), of an exported
            torch program (``.pt2``), of the weights of a torchvision bottleneck or basic ResNet
            (``.safetensors``, ``.pt``, ``.pth``; ``.pt`` needs torch and is loaded weights-only); a
            ``torch.nn.Module`` in evaluation mode; a ``torch.export.ExportedProgram``; or a name:
            ``torch:package.module:factory`` (runs that code), ``torchvision:NAME``, ``timm:NAME``.
        input_shape: (channels, height, width) of one image; needed where the model does not say. A row of
            values has height 1.
        weights: those of a Caffe description (``.caffemodel``), or the ``state_dict`` of a module by name.

    Returns:
        The network, verified.

    Raises:
        ModelError: the file cannot be read or holds no network that can be used.
        UnsupportedError: operators that are not supported, all of them named.
    """
    shape = None if input_shape is None else tuple(int(size) for size in input_shape)
    if shape is not None and (len(shape) != 3 or min(shape) < 1):
        raise ModelError(f"input shape {shape}: expected three positive sizes: channels, height, width")
    from radixpoint.importers.named import import_named, is_named

    if not isinstance(model, str | Path):
        from radixpoint.importers.torch import import_module

        return import_module(model, shape)
    if isinstance(model, str) and is_named(model):
        return import_named(model, shape, None if weights is None else Path(weights))
    path = Path(model)
    if weights is not None and path.suffix.lower() != ".prototxt":
        raise ModelError(f"{path}: has its weights: expected none beside it, but {weights} was given")
    if not path.is_file():
        raise ModelError(f"{path}: {'is no file' if path.exists() else 'no such file'}")
    match path.suffix.lower():
        case ".onnx":
            from radixpoint.importers.onnx import import_onnx

            return import_onnx(path, shape)
        case ".prototxt":
            from radixpoint.importers.caffe import import_caffe

            return import_caffe(path, None if weights is None else Path(weights), shape)
        case ".pt2":
            from radixpoint.importers.torch import import_module, read_program

            return import_module(read_program(path), shape)
        case ".safetensors" | ".pt" | ".pth":
            from radixpoint.importers.resnet import import_resnet
            from radixpoint.importers.torch import read_weights

            return import_resnet(str(path), read_weights(path), shape)
        case other:
            raise ModelError(
                f"{path}: {other or 'no'} suffix: expected .onnx, .prototxt, .pt2, .safetensors, .pt or .pth"
            )


__all__ = ["load"]
