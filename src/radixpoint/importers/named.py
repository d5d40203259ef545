"""Modules by name: ``torch:package.module:factory``, ``torchvision:NAME``, ``timm:NAME``.

A factory is the user's own code, and it is run: whoever names one trusts it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from radixpoint.errors import ModelError
from radixpoint.importers.torch import import_module, read_state, require_torch
from radixpoint.ir.graph import Graph
from radixpoint.ir.ops import Shape

SOURCES = ("torch", "torchvision", "timm")
USUAL: Shape = (3, 224, 224)
"""Of the networks of torchvision and timm, unless another is given or, in timm, stated."""


def is_named(model: str) -> bool:
    """Whether a model is given by a name and not by a path."""
    return model.partition(":")[0] in SOURCES and ":" in model


def import_named(model: str, input_shape: Shape | None, weights: Path | None) -> Graph:
    """Make a module, load its weights, and import it.

    Args:
        model: its name.
        input_shape: (channels, height, width) of an image.
        weights: a ``state_dict`` (``.pt``, ``.pth``, loaded weights-only, or ``.safetensors``). Without it a
            factory's module is taken as it is, and networks of torchvision and timm get the weights that
            these packages publish, which they download.

    Raises:
        ModelError: the package or the name is not there, or the weights do not fit.
        UnsupportedError: operations that are not supported, all of them named.
    """
    require_torch(f"importing {model}")
    source, _, name = model.partition(":")
    make = {"torch": _from_factory, "torchvision": _from_torchvision, "timm": _from_timm}[source]
    module, usual = make(name, weights is None)
    if weights is not None:
        state = read_state(weights)
        try:
            module.load_state_dict(state)
        except Exception as error:  # of many kinds
            lines = " ".join(str(error).split())
            raise ModelError(f"{weights}: does not fit {model}: {lines[:400]}") from None
    return import_module(module.eval(), input_shape or usual)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(f"{name} cannot be imported: {error}: pip install {name}") from None


def _from_factory(name: str, trained: bool) -> tuple[Any, Shape | None]:
    place, _, factory = name.partition(":")
    if not place or not factory:
        raise ModelError(f"torch:{name}: expected torch:package.module:factory")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(place), factory)()
    except Exception as error:  # the user's own code
        raise ModelError(f"torch:{name}: {type(error).__name__}: {error}") from None
    if not hasattr(made, "state_dict"):
        raise ModelError(f"torch:{name}: gives {type(made).__name__}: expected a torch.nn.Module")
    return made, None


def _from_torchvision(name: str, trained: bool) -> tuple[Any, Shape | None]:
    models = _package("torchvision").models
    try:
        return models.get_model(name, weights="DEFAULT" if trained else None), USUAL
    except Exception as error:  # unknown names, and downloads
        raise ModelError(f"torchvision:{name}: {error}") from None


def _from_timm(name: str, trained: bool) -> tuple[Any, Shape | None]:
    timm = _package("timm")
    try:
        module = timm.create_model(name, pretrained=trained)
    except Exception as error:
        raise ModelError(f"timm:{name}: {error}") from None
    size = getattr(module, "pretrained_cfg", {}).get("input_size", USUAL)
    return module, tuple(int(s) for s in size)
