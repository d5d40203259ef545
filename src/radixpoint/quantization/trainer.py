"""The training itself, on PyTorch; ``radixpoint.quantization.retrain`` has what is asked for.

The teacher is the float network: what is made small is how far the answers of the two are apart (Hinton,
Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015), so that images need no labels. Weights,
scales and offsets move; formats stay. Batch normalization is a layer with formats of its own, and is trained
as that.

The result is an ordinary network. Its accuracy is what an engine says of it.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from radixpoint.data import ImageSet
from radixpoint.engines import quantize_images
from radixpoint.errors import RunError
from radixpoint.files import read_record, write_record
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph
from radixpoint.measure.floating import FloatingEngine
from radixpoint.quantization.differentiable import Differentiable
from radixpoint.quantization.training import Training, paced

_TRAINED = ("batch_norm", "affine", "prelu")
"""Layers with a scale and an offset of their own, beside convolutions and fully connected ones."""


def _answers_apart(ours: Tensor, theirs: Tensor, labels: Tensor | None, share: float) -> Tensor:
    """Of a classifier: Kullback and Leibler's divergence of the teacher's probabilities, mean over the batch.

    A ``share`` of it is the surprise at the labels instead.
    """
    ours, theirs = functional.log_softmax(ours, 1), functional.log_softmax(theirs, 1)
    loss = functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")
    return loss if labels is None else (1 - share) * loss + share * functional.nll_loss(ours, labels)


def _results_apart(ours: Tensor, theirs: Tensor) -> Tensor:
    """Of any other network: the squared error of a result, relative to its power."""
    return (ours - theirs).square().sum() / theirs.square().sum().clamp(min=1e-12)


def varied(
    images: NDArray[np.float32], training: Training, chance: np.random.Generator
) -> NDArray[np.float32]:
    """Images (batch, channels, height, width), mirrored and moved at random as the training asks."""
    images = images.copy()
    if training.mirror:
        turned = chance.random(len(images)) < 0.5
        images[turned] = images[turned, ..., ::-1]
    if training.shift:
        most, (height, width) = training.shift, images.shape[2:]
        wide = np.pad(images, ((0, 0), (0, 0), (most, most), (most, most)), mode="edge")
        for i, (down, across) in enumerate(chance.integers(0, 2 * most + 1, (len(images), 2))):
            images[i] = wide[i, :, down : down + height, across : across + width]
    return images


def of_the_graph(graph: Graph, network: IntGraph) -> set[str]:
    """Names of the parameters that can be trained: of the float network, no constants of a lowering.

    Not those of more than 24 bits: float32 does not hold them.
    """
    layers = {layer.name for layer in graph.layers if layer.family == "product" or layer.op in _TRAINED}
    return {
        key
        for step in network.steps
        for key in step.parameters.values()
        if network.tensors[step.name].layer in layers and network.parameters[key].format.word_length <= 24
    }


class Checkpoint:
    """A file that tells where a training stands; to another training it says nothing."""

    def __init__(self, path: Path | None, *key: str) -> None:
        self.path, self.key = path, hashlib.sha256("\n".join(key).encode()).hexdigest()

    def read(self, device: torch.device) -> dict[str, Any] | None:
        """What was written, if it is of the same training."""
        if self.path is None or not self.path.exists():
            return None
        data = read_record(self.path)
        if data is None:
            warnings.warn(f"{self.path}: damaged; the training begins anew", stacklevel=3)
            return None
        found: dict[str, Any] = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        return found if found["key"] == self.key else None

    def write(self, state: dict[str, Any]) -> None:
        """Keep where the training stands.

        Raises:
            RunError: it cannot be written.
        """
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RunError(f"{self.path}: cannot be written: {error.strerror}") from None
            held = io.BytesIO()
            torch.save({"key": self.key, **state}, held)
            write_record(self.path, held.getvalue())


class Paced:
    """Adam, with a rate for each tensor that grows and falls over the whole of a training.

    Args:
        values: what moves.
        rate: how far a step moves a number at most, about, as a share of the root mean square of its tensor.
        whole: steps in all.
    """

    def __init__(self, values: Sequence[Tensor], rate: float, whole: int) -> None:
        sizes = (float(value.detach().square().mean().sqrt()) for value in values)
        self.rates, self.whole = [rate * max(size, 1e-9) for size in sizes], whole
        groups = zip(values, self.rates, strict=True)
        self.adam = torch.optim.Adam([{"params": [value], "lr": own} for value, own in groups])

    def step(self, done: int, loss: Tensor) -> None:
        """Make the loss smaller, after so many steps."""
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * paced(done, self.whole)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()


class Trainer:
    """A network under training, epoch after epoch."""

    def __init__(
        self, graph: Graph, network: IntGraph, images: ImageSet, training: Training, device: str
    ) -> None:
        self.graph, self.images, self.training = graph, images, training
        self.model = Differentiable(network, device, trained=of_the_graph(graph, network))
        self.teacher = FloatingEngine(graph, threads=1)  # more would spin beside PyTorch's
        self.steps = -(-len(images) // training.batch)
        """Of one epoch; the last one may have fewer images."""
        self.values = list(self.model.values.values())
        self.optimizer = Paced(self.values, training.rate, self.steps * training.epochs)

    def restore(self, state: dict[str, Any]) -> int:
        """Take up a training where it stood; how many epochs are done."""
        with torch.no_grad():
            for own, value in zip(self.values, state["values"], strict=True):
                own.copy_(value)
        self.optimizer.adam.load_state_dict(state["optimizer"])
        return int(state["epoch"])

    def state(self, epoch: int) -> dict[str, Any]:
        """Where the training stands after so many epochs."""
        values = [value.detach() for value in self.values]
        return {"epoch": epoch, "values": values, "optimizer": self.optimizer.adam.state_dict()}

    def epoch(self, number: int) -> float:
        """See every image once; the mean of what is made small."""
        chance, total = np.random.default_rng([self.training.seed, number]), 0.0
        order = chance.permutation(len(self.images))
        for step in range(self.steps):
            places = np.sort(order[step * self.training.batch :][: self.training.batch])
            loss = self._loss(self.images.taken(places), chance)
            self.optimizer.step(number * self.steps + step, loss)
            total += float(loss.detach())
        return total / self.steps

    def _loss(self, batch: ImageSet, chance: np.random.Generator) -> Tensor:
        network, device = self.model.network, self.model.device
        seen = varied(batch.inputs(0, len(batch)), self.training, chance)
        found = self.model.run(
            {network.input: self.model.images(quantize_images(network, seen))}, network.outputs
        )
        expected = self.teacher.run(seen)
        pairs = [
            (found[ours], torch.as_tensor(expected[theirs], device=device))
            for ours, theirs in zip(network.outputs, self.graph.outputs, strict=True)
        ]
        if not self.graph.names_classes:
            return torch.stack([_results_apart(*pair) for pair in pairs]).mean()
        share = self.training.labels
        labels = torch.as_tensor(batch.labels, device=device) if share else None
        return _answers_apart(*pairs[0], labels, share)
