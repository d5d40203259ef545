"""What commands read, with bars: models, images, ranges; and what they write."""

from __future__ import annotations

import tempfile
from pathlib import Path

from radixpoint.cli.terminal import bars, errors, say
from radixpoint.data import ImageSet, Preprocessing, load_images, read_classes
from radixpoint.demo import demo_images, demo_network
from radixpoint.engines import check_engine
from radixpoint.errors import DataError, DesignError, EngineError, ModelError, RunError
from radixpoint.importers import load
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph
from radixpoint.ir.storage import save_network
from radixpoint.measure.calibrate import Ranges, calibrate
from radixpoint.searching.criterion import Criterion

DEMO_NETWORK = "demo:network"
DEMO_IMAGES = {"demo:test": "test", "demo:calibration": "calibration"}
"""Names of what is inside the package, in place of files."""


def criterion(metric: str, limit: str, confidence: float | None = None) -> Criterion:
    """``--metric``, ``--limit``, ``--confidence``.

    Raises:
        DesignError: one cannot be meant.
    """
    relative = limit.endswith("%")
    try:
        return Criterion(metric, float(limit.removesuffix("%")), confidence, relative)
    except (DesignError, ValueError) as error:
        sure = "" if confidence is None else f", --confidence {confidence}"
        reason = error if isinstance(error, DesignError) else "expected a number, such as 1.0, or 1%"
        raise DesignError(f"--metric {metric}, --limit {limit}{sure}: {reason}") from None


def engine_of(engine: str, device: str | None, threads: int) -> str:
    """``--engine`` and ``--device`` as one name, once what it names is seen to be here.

    Raises:
        EngineError: no such engine or device, or a device for an engine that has none.
    """
    if device is not None and engine != "torch":
        raise EngineError(f"--device {device} with --engine {engine}: expected --engine torch")
    name = engine if device is None else f"{engine}:{device}"
    check_engine(name, threads)
    return name


def parsed_shape(text: str | None) -> tuple[int, ...] | None:
    """``--input-shape``.

    Raises:
        ModelError: it is no list of numbers.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ModelError(f"--input-shape {text!r}: expected numbers such as 3,224,224") from None


def read_model(model: str, weights: str | None, input_shape: str | None, images: ImageSet) -> Graph:
    """The network; images settle what neither the model nor the user says."""
    if model == DEMO_NETWORK:
        if weights is not None:
            raise ModelError(f"{model}: has its weights: expected none beside it, but {weights} was given")
        return demo_network()
    asked = parsed_shape(input_shape)
    if asked is None and Path(model).suffix.lower() in (".onnx", ".prototxt", ".pt2"):
        try:
            return load(model, weights=weights)
        except ModelError as error:
            if "dynamic" not in str(error) and "how large" not in str(error):
                raise
    return load(model, asked or images.pixels.shape[1:], weights)


def _prepared(preprocessing: str | None, model: str | None) -> Preprocessing | None:
    """``--preprocessing``, or what a Caffe model says itself."""
    described = model if model is not None and Path(model).suffix == ".prototxt" else None
    kind = None if preprocessing is None else Path(preprocessing).suffix
    if preprocessing is not None and kind not in (".prototxt", ".binaryproto"):
        return Preprocessing.load(preprocessing)
    if kind == ".binaryproto" and described is None:
        raise DataError(f"{preprocessing}: a mean file: expected it with a model in Caffe's .prototxt")
    if preprocessing is None and described is None:
        return None
    from radixpoint.data.caffe_images import caffe_preprocessing

    if preprocessing is None or kind == ".binaryproto":
        return caffe_preprocessing(str(described), preprocessing)
    return caffe_preprocessing(preprocessing)


def read_images(
    path: str,
    classes: str | None,
    preprocessing: str | None,
    limit: int | None = None,
    model: str | None = None,
    labels: str | None = None,
    store: str | None = None,
) -> ImageSet:
    """Images of a path, by the options' values."""
    if path in DEMO_IMAGES:
        embedded = demo_images(DEMO_IMAGES[path])
        return embedded if limit is None else embedded.first(limit)
    names = None if classes is None else read_classes(classes)
    return read_prepared(path, _prepared(preprocessing, model), names, limit, labels, store)


def read_prepared(
    path: str,
    prepared: Preprocessing | None,
    names: tuple[str, ...] | None = None,
    limit: int | None = None,
    labels: str | None = None,
    store: str | None = None,
) -> ImageSet:
    """Images of a path; those that cannot be read are named on standard error."""
    with bars() as shown:
        task = shown.add_task(f"reading {path}", total=None)
        result = load_images(
            *(path, prepared, names, lambda done, total: shown.update(task, completed=done, total=total)),
            labels=labels,
            store=False if store == "none" else store,
            most=limit,
        )
    for name, reason in result.unreadable[:20]:
        say(f"unreadable: {name}: {reason}", errors)
    if result.unreadable:
        total = len(result.unreadable) + len(result)
        say(f"{path}: {len(result.unreadable)} of {total} images are unreadable", errors)
    return result


def read_ranges(path: str | None, graph: Graph, calibration: ImageSet) -> Ranges | None:
    """Ranges of a file, if there is one, that are of this network and these images."""
    if path is None:
        return None
    found = Ranges.load(path)
    try:
        found.check(graph, calibration)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return found


def ranges_of(path: str | None, graph: Graph, calibration: ImageSet) -> Ranges:
    """Ranges of a file, or measured with a bar."""
    known = read_ranges(path, graph, calibration)
    if known is not None:
        return known
    with bars() as shown:
        task = shown.add_task("calibration", total=len(calibration))
        return calibrate(graph, calibration, lambda done, _: shown.update(task, completed=done))


def held_out_count(held_out: str | None) -> int | None:
    """So many of the images that ``--held-out`` takes away, if it is a number."""
    return int(held_out) if held_out is not None and held_out.isdecimal() and len(held_out) < 10 else None


def without_held_out(images: ImageSet, held_out: str | None) -> ImageSet:
    """The images that take part in a search."""
    count = held_out_count(held_out)
    return images if count is None else images.parted(len(images) - count)[0]


def check_writable(path: Path) -> None:
    """Refuse an output file that cannot be written before any work is done; nothing is made yet.

    Raises:
        RunError: a folder, a device or a pipe is there, or nothing can be written there.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise RunError(f"{path}: is {what}: expected the name of a file")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


def make_parents(path: Path) -> None:
    """Make the folder of an output file, once there is something to write.

    Raises:
        RunError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


def write_quantized(network: IntGraph, out: Path) -> dict[str, object]:
    """Save a quantized network; what ``--json`` says of it."""
    make_parents(out)
    save_network(network, out)
    return {
        "network": str(out),
        "digest": network.digest,
        "widest_accumulator": network.widest_accumulator,
        "formats": {name: str(tensor.format) for name, tensor in network.tensors.items()},
    }
