"""Importers: a model file or module becomes a ``radixpoint.ir.graph.Graph``.

Batch normalization stays a layer of its own: importing never folds it. A framework is imported only when
its importer runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from radixpoint.errors import ModelError
from radixpoint.importers.onnx import import_onnx
from radixpoint.importers.resnet import import_resnet
from radixpoint.importers.torch import import_module, read_weights
from radixpoint.ir.graph import Graph


def load(model: Any, input_shape: Sequence[int] | None = None) -> Graph:
    """Read a trained network.

    Args:
        model: the path of an ONNX model (``.onnx``), of the weights of a torchvision bottleneck or basic
            ResNet (``.safetensors``, ``.pt``, ``.pth``; ``.pt`` needs torch and is loaded weights-only),
            or a ``torch.nn.Module`` in evaluation mode.
        input_shape: (channels, height, width) of one image; needed where the model does not say.

    Returns:
        The network, verified.

    Raises:
        ModelError: the file cannot be read or holds no network that can be used.
        UnsupportedError: operators that are not supported, all of them named.
    """
    shape = None if input_shape is None else tuple(int(size) for size in input_shape)
    if shape is not None and (len(shape) != 3 or min(shape) < 1):
        raise ModelError(f"input shape {shape}: expected three positive sizes: channels, height, width")
    if not isinstance(model, str | Path):
        return import_module(model, shape)
    path = Path(model)
    if not path.is_file():
        raise ModelError(f"{path}: {'is no file' if path.exists() else 'no such file'}")
    match path.suffix.lower():
        case ".onnx":
            return import_onnx(path, shape)
        case ".safetensors" | ".pt" | ".pth":
            return import_resnet(str(path), read_weights(path), shape)
        case other:
            raise ModelError(f"{path}: {other or 'no'} suffix: expected .onnx, .safetensors, .pt or .pth")


__all__ = ["load"]
