"""Damaged and hostile files of every kind that the tool reads, and what reading one may end in.

Each ``try_...`` makes one file of its kind from a seed and reads it. It returns whether the file was
accepted; a refusal is an error of :mod:`radixpoint.errors`, and anything else that escapes is what is
looked for.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import typer
from fuzz_networks import EDGES, damaged_bytes, damaged_json, damaged_network, random_images, random_network
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import networks
import radixpoint
from radixpoint.cli.main import app
from radixpoint.cli.run_file import expanded
from radixpoint.data import ImageSet, Preprocessing, load_images, read_classes
from radixpoint.engines import BlasEngine, NativeEngine, ReferenceEngine, instruction_sets
from radixpoint.errors import RadixpointError
from radixpoint.export.folder import make_manifest, read_manifest
from radixpoint.files import read_record, write_record
from radixpoint.ir.network import IntGraph
from radixpoint.ir.storage import load_network, save_network
from radixpoint.measure.calibrate import Ranges, calibrate
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize


def agree(network: IntGraph, seed: int) -> None:
    """Every engine == the reference on every tensor, and on the output alone."""
    images, names = random_images(network, seed), list(network.tensors)
    expected = ReferenceEngine(network).run(images, names)
    engines = [BlasEngine(network, 1)]
    if instruction_sets():
        engines.append(NativeEngine(network, 1))
    for engine in engines:
        got, alone = engine.run(images, names), engine.run(images)[network.output]
        wrong = [name for name in names if not np.array_equal(got[name], expected[name])]
        assert not wrong, f"{type(engine).__name__} differs from the reference on {wrong[:3]}"
        assert np.array_equal(alone, expected[network.output]), f"{type(engine).__name__}: the output alone"


def try_network(seed: int, folder: Path) -> bool:
    """A random network that is right: it loads again, and every engine computes the same."""
    network = random_network(seed)
    if network is None:
        return False
    agree(network, seed)
    if seed % 10 == 0:
        save_network(network, folder / "n.safetensors")
        assert load_network(folder / "n.safetensors").digest == network.digest
    return True


@cache
def _saved(number: int) -> bytes:
    """Networks of all kinds of layers, quantized, and random ones; as files."""
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"fuzz-{os.getpid()}-{number}.safetensors"
    if number < 4:
        graph = (networks.residual, networks.mixed)[number % 2]()
        form = {"batch_norm": "staged"} if number > 1 else {"binary_point": {"scope": "channel"}}
        design = Design.separate(6, 9, average_pool=("division", "reciprocal")[number // 2], **form)
        network = quantize(graph, networks.calibrated(graph), design)
    else:
        made = random_network(number)
        network = made if made is not None else random_network(4)  # type: ignore[assignment]
    try:
        save_network(network, path)
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def try_damaged_network(seed: int, folder: Path) -> bool:
    """A damaged file of a network: refused, or every engine computes the same."""
    random = Random(seed)
    path = folder / "n.safetensors"
    path.write_bytes(damaged_network(random, _saved(random.randrange(60))))
    agree(load_network(path), seed)
    return True


# ------------------------------------------------------------------------------------------------ models


def _model(random: Random) -> onnx.ModelProto:
    """A small model that is right, of one of several kinds."""
    r = np.random.default_rng(random.getrandbits(32))
    node = helper.make_node
    weights = {
        "w": r.normal(size=(4, 3, 3, 3)), "fw": r.normal(size=(5, 4)), "fb": r.normal(size=5),
        "ga": np.ones(4), "be": np.zeros(4), "mu": np.zeros(4), "va": np.ones(4), "lo": np.array(0.0),
    }  # fmt: skip
    shapes = {"axes": np.array([2, 3]), "t": np.array([0, -1]), "s": np.array([4]), "one": np.array([1])}
    nodes = [node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1], strides=[1, 1])]
    last = "c"
    for kind in random.sample(range(7), random.randint(0, 4)):
        new = f"v{kind}"
        if kind == 0:
            nodes.append(node("BatchNormalization", [last, "ga", "be", "mu", "va"], [new], epsilon=1e-3))
        elif kind == 1:
            nodes.append(node("Clip", [last, "lo"], [new], name="clip"))
        elif kind == 2:
            nodes.append(
                node("MaxPool", [last], [new], kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1])
            )
        elif kind == 3:
            nodes += [node("Relu", [last], [new + "r"]), node("Add", [last, new + "r"], [new])]
        elif kind == 4:
            nodes.append(node("AveragePool", [last], [new], kernel_shape=[2, 2], count_include_pad=1))
        elif kind == 5:
            nodes.append(node("Conv", [last, "w1", "be"], [new], group=4, kernel_shape=[1, 1]))
            weights["w1"] = r.normal(size=(4, 1, 1, 1))
        else:
            nodes += [
                node("ConstantOfShape", ["s"], [new + "k"]),
                node("Add", [new + "k", "be"], [new + "b"]),
                node("Conv", [last, "w2", new + "b"], [new], name="folded"),
            ]
            weights["w2"] = r.normal(size=(4, 4, 1, 1))
        last = new
    nodes += [node("GlobalAveragePool", [last], ["p"]), node("Reshape", ["p", "t"], ["f"], name="flat")]
    nodes.append(node("Gemm", ["f", "fw", "fb"], ["y"], transB=1, name="fc"))
    arrays = {k: np.asarray(v, np.float32) for k, v in weights.items()} | shapes
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "k"])],
        [numpy_helper.from_array(v, k) for k, v in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _damaged_model(random: Random, model: onnx.ModelProto) -> bytes:
    for _ in range(random.choice([1, 1, 2, 3])):
        node = random.choice(model.graph.node)
        match random.randrange(10):
            case 0 if node.attribute:
                attribute = random.choice(node.attribute)
                value = random.choice([0, -1, 1, 2, 99, 1 << 31, (1 << 62), -(1 << 40)])
                if attribute.ints:
                    del attribute.ints[random.randrange(len(attribute.ints)) :]
                    attribute.ints.extend([value] * random.randrange(4))
                else:
                    attribute.i, attribute.f = (
                        value,
                        random.choice([0.0, -1.0, float("nan"), float("inf"), 1e38]),
                    )
            case 1:
                node.op_type = random.choice(
                    [
                        "Loop",
                        "If",
                        "Conv",
                        "Relu",
                        "RandomNormal",
                        "Expand",
                        "Tile",
                        "Range",
                        "Shape",
                        "Foo",
                        "Sum",
                        "Gemm",
                        "MatMul",
                        "Concat",
                        "Dropout",
                        "ReduceMean",
                        "Pad",
                        "Flatten",
                        "Constant",
                        "Identity",
                    ]
                )
            case 2 if node.input:
                names = [*(i for n in model.graph.node for i in n.input), "", "x", "nowhere", "t", "w"]
                node.input[random.randrange(len(node.input))] = random.choice(names)
            case 3:
                tensor = random.choice(model.graph.initializer)
                if tensor.dims:
                    tensor.dims[random.randrange(len(tensor.dims))] = random.choice([0, 1, 2, 3, -1, 1 << 33])
                else:
                    tensor.dims.extend([random.choice([0, 1, 2])])
            case 4:
                random.choice(model.graph.initializer).data_type = random.randrange(25)
            case 5:
                tensor = random.choice(model.graph.initializer)
                array = np.array(numpy_helper.to_array(tensor)) if tensor.data_type in (1, 7) else np.ones(1)
                if array.size:
                    array.ravel()[random.randrange(array.size)] = random.choice([0, -1, 1e38, 99])
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            case 6:
                dim = random.choice(model.graph.input[0].type.tensor_type.shape.dim)
                dim.dim_value = random.choice([0, 1, 2, 3, 7, 9, 4096, 1 << 40, -1])
            case 7:
                node.attribute.append(
                    helper.make_attribute(
                        random.choice(
                            ["pads", "strides", "group", "axis", "kernel_shape", "auto_pad", "ceil_mode"]
                        ),
                        random.choice([0, -3, [0, 0], [1, 1, 1, 1], "SAME_UPPER", [9], 1 << 50]),
                    )
                )
            case 8:
                model.opset_import[0].version = random.choice([1, 6, 9, 11, 13, 19, 99])
            case _:
                if random.random() < 0.5:
                    del model.graph.node[random.randrange(len(model.graph.node))]
                else:
                    node.output[0] = random.choice(["y", "x", "", node.output[0]])
                if not model.graph.node:
                    break
    return model.SerializeToString()


def try_onnx(seed: int, folder: Path) -> bool:
    """A model that is right, damaged in its structure or its bytes."""
    random = Random(seed)
    model = _model(random)
    if random.random() < 0.05:
        data = model.SerializeToString()
    elif random.random() < 0.3:
        data = damaged_bytes(random, model.SerializeToString())
    else:
        try:
            data = _damaged_model(random, model)
        except (ValueError, TypeError, OverflowError):  # protobuf or the array does not hold that
            data = damaged_bytes(random, model.SerializeToString())
    (folder / "m.onnx").write_bytes(data)
    radixpoint.load(folder / "m.onnx", (3, 8, 8) if random.random() < 0.3 else None)
    return True


# --------------------------------------------------------------------------------------------- documents

DESIGNS = (
    Design.joint(8),
    Design.separate(
        6, 10, binary_point={"scope": "channel", "rule": "loss"}, unsigned=True, refine=["offsets"]
    ),
    Design.separate(4, 8, codes={"weights": {"kind": "float"}}, layers={"conv1": {"weights": 3}}, seed=7),
)


def try_design(seed: int, folder: Path) -> bool:
    """A design file."""
    random = Random(seed)
    text = random.choice(DESIGNS).to_json()
    if random.random() < 0.6:
        text = json.dumps(damaged_json(random, json.loads(text), random.choice([1, 2, 5]))).encode()
    else:
        text = damaged_bytes(random, text)
    (folder / "d.json").write_bytes(text)
    design = Design.load(folder / "d.json")
    assert Design.load(_put(folder / "e.json", design.to_json())) == design
    return True


def _put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8))
PREPROCESSINGS = (
    {"mean": [0.5] * 3, "std": [0.2] * 3, "resize_size": [16], "crop_size": [8], "interpolation": "bicubic"},
    {"mean": [0.5], "std": [0.2], "channel_order": "L", "rescale": 1, "lossy": ["alpha"]},
    {"mean": [1, 2, 3], "std": [1, 1, 1], "channel_order": "stored", "exif_orientation": "ignore"},
)


def try_preprocessing(seed: int, folder: Path) -> bool:
    """A file of preprocessing, and one picture through it."""
    random = Random(seed)
    document = damaged_json(random, random.choice(PREPROCESSINGS), random.choice([1, 2, 4]))
    text = json.dumps(document).encode()
    path = _put(folder / "p.json", damaged_bytes(random, text) if random.random() < 0.3 else text)
    loaded = Preprocessing.load(path)
    try:
        pixels = loaded.pixels(PICTURE.copy())
    except ValueError:
        return False  # said of one picture: it would be listed as unreadable
    if pixels.size < 1 << 22:
        assert loaded.normalize(pixels[None]).shape[1] == loaded.channels
    return True


def try_list(seed: int, folder: Path) -> bool:
    """A list of images, or of classes."""
    random = Random(seed)
    if not (folder / "i.png").exists():
        PICTURE.save(folder / "i.png")
        os.mkfifo(folder / "pipe.png")
    labels = [
        "0",
        "1",
        "7",
        "cat",
        "²",
        "1e3",
        "-1",
        str(1 << 70),
        "999999999999",
        "a b",
        "\u202e",
        "x" * 300,
    ]
    files = ["i.png", "i.png", "pipe.png", "nowhere.png", "../i.png", "/dev/zero", "", ".", "i.png ", "\0"]
    lines = [f"{random.choice(files)} {random.choice(labels)}" for _ in range(random.randint(0, 4))]
    text = "\n".join(lines).encode("utf-8", "replace")
    text = damaged_bytes(random, text) if random.random() < 0.4 else text
    if random.random() < 0.3:
        return bool(read_classes(_put(folder / "classes.txt", text)))
    images = load_images(_put(folder / "l.txt", text), classes=random.choice([None, None, ["cat", "7"]]))
    images.check(images.pixels.shape[1:], random.choice([2, 8, 1000]))
    return True


# ------------------------------------------------------------------------------------------------ images

_MODES = ("RGB", "L", "RGBA", "P", "1", "LA", "CMYK", "I;16", "F", "YCbCr")
_SAVED_AS = {
    "png": "PNG",
    "jpg": "JPEG",
    "gif": "GIF",
    "bmp": "BMP",
    "tif": "TIFF",
    "webp": "WEBP",
    "ppm": "PPM",
}


@cache
def _encoded(mode: str, suffix: str) -> bytes:
    """A picture of that mode in that format, or nothing where there is no such."""
    stream = io.BytesIO()
    try:
        picture = (
            PICTURE.convert("L").convert("I").convert("I;16") if mode == "I;16" else PICTURE.convert(mode)
        )
        picture.save(stream, _SAVED_AS[suffix])
    except (OSError, ValueError):
        return b""
    return stream.getvalue()


def _damaged_image(random: Random) -> tuple[str, bytes]:
    suffix = random.choice(list(_SAVED_AS))
    data = _encoded(random.choice(_MODES), suffix)
    if random.random() < 0.05:
        data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    if random.random() < 0.85:
        data = damaged_bytes(random, data)
    return random.choice([suffix, suffix, *_SAVED_AS]), data


def _checked(images: ImageSet) -> bool:
    images.check_shape(images.pixels.shape[1:])
    json.dumps(images.unreadable).encode()  # as a result says it
    return True


def try_image(seed: int, folder: Path) -> bool:
    """One image in a folder of a class."""
    random = Random(seed)
    label = folder / "images" / "cat"
    label.mkdir(parents=True, exist_ok=True)
    for old in label.iterdir():
        old.unlink()
    suffix, data = _damaged_image(random)
    (label / f"i.{suffix}").write_bytes(data)
    size = random.choice([None, None, 4, 40])
    lossy = random.choice([(), (), ("alpha", "cmyk", "depth")])
    return _checked(
        load_images(folder / "images", Preprocessing(resize_size=size, crop_size=size, lossy=lossy))
    )


def try_tar(seed: int, folder: Path) -> bool:
    """A tar of images."""
    random = Random(seed)
    stream = io.BytesIO()
    mode = random.choice(["w", "w:gz", "w:xz", "w:bz2"])
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for number in range(random.randint(0, 3)):
            suffix, data = _damaged_image(random)
            name = random.choice(
                [f"a/{number}.{suffix}", f"b/{number}.png", f"/a/../b.{suffix}", f"\udcff/{number}.png"]
            )
            item = tarfile.TarInfo(name)
            item.size = len(data)
            item.type = random.choice(
                [tarfile.REGTYPE] * 6 + [tarfile.FIFOTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE]
            )
            archive.addfile(item, io.BytesIO(data))
    raw = stream.getvalue()
    if random.random() < 0.7:
        raw = damaged_bytes(random, raw)
    return _checked(load_images(_put(folder / "t.tar", raw)))


def try_npz(seed: int, folder: Path) -> bool:
    """An .npz of images."""
    random = Random(seed)
    shape = random.choice(
        [(3, 4, 5), (3, 4, 5, 3), (2, 3, 4, 4), (3, 4, 5, 4), (0, 4, 4), (2, 1, 6, 6), (2, 3, 3, 3)]
    )
    kind: Any = random.choice([np.uint8, np.uint8, np.uint8, np.float32, np.int64, np.bool_, "U3"])
    images = np.random.default_rng(seed).integers(0, 256, shape).astype(kind)
    labels = np.array([random.choice([0, 1, 5, -1, 10**12]) for _ in range(random.choice([shape[0], 2]))])
    stream = io.BytesIO()
    random.choice([np.savez, np.savez_compressed])(stream, images=images, labels=labels)
    raw = stream.getvalue()
    if random.random() < 0.2:
        stream = io.BytesIO()
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {random.choice(EDGES)!r}, }}".encode()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("images.npy", "labels.npy"):
                archive.writestr(
                    name, b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"x" * 40
                )
        raw = stream.getvalue()
    elif random.random() < 0.6:
        raw = damaged_bytes(random, raw)
    return _checked(load_images(_put(folder / "n.npz", raw)))


@cache
def _kit() -> dict[str, bytes]:
    """ImageNet's development kit, in small."""
    from scipy.io import savemat

    table = np.zeros((3, 1), [(f, "O") for f in ("ILSVRC2012_ID", "WNID", "words", "num_children")])
    for i, row in enumerate([(1, "n2", "b", 0), (2, "n1", "a", 0), (3, "n0", "all", 2)]):
        table[i, 0] = row
    stream = io.BytesIO()
    savemat(stream, {"synsets": table})
    return {"meta.mat": stream.getvalue(), "ILSVRC2012_validation_ground_truth.txt": b"1\n2\n"}


LABELS = {
    "l.txt": b"ILSVRC2012_val_00000001.png 3\nILSVRC2012_val_00000002.png cat\n",
    "val.txt": b"ILSVRC2012_val_00000001.png 0\nILSVRC2012_val_00000002.png 1\n",
    "l.csv": b"image,label\nILSVRC2012_val_00000001,great owl\nILSVRC2012_val_00000002.png,cat\n",
    "k.csv": b"ImageId,PredictionString\nILSVRC2012_val_00000001,n1 1 2\nILSVRC2012_val_00000002,n2 3\n",
}


def try_labels(seed: int, folder: Path) -> bool:
    """Labels that lie apart from two images."""
    random = Random(seed)
    images = folder / "apart"
    if not images.exists():
        images.mkdir()
        for number in (1, 2):
            PICTURE.save(images / f"ILSVRC2012_val_0000000{number}.png")
    name = random.choice([*LABELS, "kit", "kit", "t.npy"])
    if name == "kit":
        broken = random.choice([*_kit(), ""])
        for own, data in _kit().items():
            _put(folder / own, damaged_bytes(random, data) if own == broken else data)
        path = folder / "ILSVRC2012_validation_ground_truth.txt"
    elif name == "t.npy":
        stream = io.BytesIO()
        np.save(
            stream, np.zeros(random.choice([2, (2, 3), (), 3]), random.choice([np.int64, np.float32, bool]))
        )
        path = _put(folder / name, damaged_bytes(random, stream.getvalue()))
    else:
        data = LABELS[name]
        path = _put(folder / name, damaged_bytes(random, data) if random.random() < 0.8 else data)
    found = load_images(images, labels=path, classes=random.choice([None, None, ["0", "1"], ["cat", "n1"]]))
    assert len(found) == 2
    assert len(found.digest) == 64
    return True


PRINTED = (
    "ImageClassification(\n    crop_size=[8]\n    resize_size=[9]\n    mean=[0.4, 0.4, 0.4]\n    std=[0.2, "
    "0.2, 0.2]\n"
    "    interpolation=InterpolationMode.BILINEAR\n)",
    "ImageClassification(crop_size=[8], resize_size=[9], mean=[0.4, 0.4, 0.4], std=[0.2, 0.2, 0.2])",
    "{'input_size': (3, 8, 8), 'interpolation': 'bicubic', 'mean': (0.4, 0.4, 0.4), 'std': (0.2, 0.2, 0.2), "
    "'crop_pct': 0.9, 'crop_mode': 'center'}",
)


def try_preset(seed: int, folder: Path) -> bool:
    """A preprocessing as torchvision or timm print it."""
    random = Random(seed)
    text = random.choice(PRINTED).encode()
    path = _put(folder / "printed", damaged_bytes(random, text) if random.random() < 0.9 else text)
    return Preprocessing.load(path).channels > 0


def try_run_file(seed: int, folder: Path) -> bool:
    """A file that describes a search."""
    random = Random(seed)
    text = (
        b'model = "m.onnx"\nimages = "i"\nlimit = 1.5\npolicy = ["joint"]\nunsigned = true\nfix = ["a=3"]\n'
    )
    path = _put(folder / "run.toml", damaged_bytes(random, text) if random.random() < 0.9 else text)
    group: Any = typer.main.get_command(app)
    options = {option.name: option for option in group.get_command(None, "search").params}
    arguments = expanded([str(path), "--limit", "2"], options)
    assert all(isinstance(text, str) for text in arguments)
    return True


# ------------------------------------------------------------------------------------------ what is kept


@cache
def _ranges() -> bytes:
    graph = networks.residual()
    return calibrate(graph, networks.images(8, 0, graph.shapes["input"])).encoded()


def try_ranges(seed: int, folder: Path) -> bool:
    """A file of ranges."""
    Ranges.load(_put(folder / "r.npz", damaged_bytes(Random(seed), _ranges())))
    return True


def try_record(seed: int, folder: Path) -> bool:
    """A record of a cache: whatever happened to it, it says nothing but what was written."""
    random = Random(seed)
    path, content = folder / "record", bytes(random.randrange(256) for _ in range(random.choice([0, 1, 300])))
    write_record(path, content)
    written = path.read_bytes()
    damaged = damaged_bytes(random, written)
    path.write_bytes(damaged)
    got = read_record(path)
    assert got is None or (got == content and damaged == written), "a damaged record was believed"
    return got is not None


def try_manifest(seed: int, folder: Path) -> bool:
    """The manifest of an export."""
    random = Random(seed)
    manifest = make_manifest(random_network(1) or random_network(2), "c", {}, 1, {"network.c": b"x"})  # type: ignore[arg-type]
    import msgspec

    document = json.loads(msgspec.json.encode(manifest))
    document["files"][random.choice(["../x", "/etc/passwd", "a/../../b", "x", "\0", "", "c:\\x"])] = "0"
    text = json.dumps(damaged_json(random, document, random.choice([0, 1, 3]))).encode()
    _put(folder / "manifest.json", damaged_bytes(random, text) if random.random() < 0.3 else text)
    found = read_manifest(folder)
    for name in found.files:
        assert (folder / name).resolve().is_relative_to(folder.resolve())
    return True


KINDS: Mapping[str, Callable[[int, Path], bool]] = {
    "network": try_network,
    "damaged network": try_damaged_network,
    "onnx": try_onnx,
    "design": try_design,
    "preprocessing": try_preprocessing,
    "list": try_list,
    "image": try_image,
    "tar": try_tar,
    "npz": try_npz,
    "ranges": try_ranges,
    "record": try_record,
    "manifest": try_manifest,
    "labels": try_labels,
    "preset": try_preset,
    "run file": try_run_file,
}


def attempt(kind: str, seed: int, folder: Path) -> str:
    """ "accepted" or "refused"; anything else that happens is raised."""
    try:
        return "accepted" if KINDS[kind](seed, folder) else "refused"
    except RadixpointError:
        return "refused"
