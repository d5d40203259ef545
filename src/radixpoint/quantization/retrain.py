"""Retraining: a quantized network is trained on its own fixed-point grid (extra ``torch``).

What is asked for is here, and needs no PyTorch; ``radixpoint.quantization.trainer`` does it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import msgspec

from radixpoint.data import ImageSet
from radixpoint.engines.boundary import check_threads
from radixpoint.errors import DesignError, RunError
from radixpoint.importers.torch import require_torch
from radixpoint.ir.derived import with_parameters
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph, verify
from radixpoint.measure.calibrate import calibrate
from radixpoint.measure.evaluate import check_origin
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import Quantizer
from radixpoint.quantization.training import Training


def _check(graph: Graph, network: IntGraph, images: ImageSet, training: Training) -> None:
    """Refuse what cannot be trained, before any work."""
    training.check()
    check_origin(graph, network.metadata.get("network", ""))
    design = Design.recorded(network)
    if design is not None and design.codes != type(design.codes)():
        raise DesignError("the network's design codes weights or operands: expected one without codes")
    if design is not None and design.accumulator is not None:
        raise DesignError(
            "the network's design narrows accumulators, which other weights may exceed: expected proven ones"
        )
    images.check_shape(graph.shapes[graph.input])
    if training.labels:
        if not graph.names_classes:
            raise DesignError("a share of the labels: expected a classifier")
        images.check(graph.shapes[graph.input], graph.shapes[graph.output][0])


def retrain(
    graph: Graph,
    network: IntGraph,
    images: ImageSet,
    training: Training | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
    device: str = "cpu",
    threads: int = 0,
) -> IntGraph:
    """Train a quantized network to answer as the float network does.

    At the end, offsets of batch normalization are estimated again, from the means that float has of each
    channel. That is kept if the answers to these images come nearer to float's for it. A network that does
    not name its design is left as it was trained.

    On one processor with one number of threads, the same call gives the same network, interrupted or not.

    Args:
        graph: the float network.
        network: quantized from it; its formats are kept.
        images: to train on; keep them apart from those that judge. Labels count only if ``training`` asks.
        training: how; see there.
        checkpoint: file that keeps where the training stands; from there the same call goes on. It stays
            when the training has ended: remove it once the network is kept.
        progress: called after each epoch with how many are done and the mean of what is made small.
        device: PyTorch's name of one.
        threads: of PyTorch; 0 takes as many as it has. With few images a step, one is often faster than two.

    Returns:
        The network with other integers, verified; ``metadata["retrained"]`` says how, in JSON, and
            ``metadata["estimated"]`` whether offsets were estimated ``again`` or ``kept``.

    Raises:
        ModelError: the network was not quantized from ``graph``, or PyTorch is not installed.
        DesignError: the training cannot be meant, or the design codes values or narrows accumulators.
        DataError: the network does not take such images, or labels are asked for and there are none.
        RunError: the training diverged, or the checkpoint cannot be written.
        EngineError: the network rounds at random, there is no such device, or fewer than 0 threads.
    """
    training = training or Training()
    _check(graph, network, images, training)
    check_threads(threads)
    require_torch("retraining")
    from radixpoint.engines.tensors import check_device, own_settings
    from radixpoint.quantization.trainer import Checkpoint, Trainer

    asked = msgspec.json.encode(training).decode()
    kept = Checkpoint(checkpoint, network.digest, graph.digest, images.digest, asked)
    trainer = Trainer(graph, network, images, training, str(check_device(device)))
    state = kept.read(trainer.model.device)
    for epoch in range(0 if state is None else trainer.restore(state), training.epochs):
        with own_settings(threads):
            loss = trainer.epoch(epoch)
        if not math.isfinite(loss):
            lower = f"expected a lower rate than {training.rate:g}"
            raise RunError(f"the training diverged in epoch {epoch + 1}: {lower}")
        kept.write(trainer.state(epoch + 1))
        if progress is not None:
            progress(epoch + 1, loss)
    result = with_parameters(network, trainer.model.parameters())
    metadata = {**network.metadata, "retrained": asked, "trained_on": images.digest}
    result = dataclasses.replace(result, metadata=metadata)
    design = Design.recorded(network)
    if design is not None:
        result = Quantizer(graph, calibrate(graph, images), images).estimated_again(result, design)
    verify(result)
    return result
