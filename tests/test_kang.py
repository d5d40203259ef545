"""Kang's setting end to end: the original description, a miniature of ImageNet in exactly its layout."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import radixpoint
from caffe_models import random_weights
from radixpoint.data.caffe_schema import _messages
from radixpoint.measure.floating import FloatingEngine
from test_cli import fails, run

SHARED = Path(__file__).parents[2] / "shared" / "data" / "caffe"
IMAGES, DRAWN = 20, 4


def jpeg(number: int) -> bytes:
    """500 x 375, as ImageNet's usual ones: blobs of colour, each image its own."""
    random = np.random.default_rng(number)
    coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3)).astype(np.uint8))
    stream = io.BytesIO()
    coarse.resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that tell these images apart, and the ground truth that they make."""
    if not SHARED.exists():  # they lie beside the project, not in it
        pytest.skip(f"no {SHARED}: the original descriptions are not here")
    folder = tmp_path_factory.mktemp("imagenet")
    description = SHARED / "ResNet-50-deploy.prototxt"
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as archive:
        for i in range(IMAGES):
            add(archive, f"ILSVRC2012_val_{i + 1:08}.JPEG", jpeg(i))
    prepared = radixpoint.caffe_preprocessing(description, SHARED / "ResNet_mean.binaryproto")
    assert prepared.mean_image is not None
    prepared = type(prepared)(
        **{f: getattr(prepared, f) for f in prepared.__struct_fields__} | {"resize_size": 256}
    )
    images = radixpoint.load_images(folder / "ILSVRC2012_img_val.tar", prepared)
    net = _messages()["Net"]()
    net.ParseFromString(random_weights(description))
    weights = folder / "ResNet-50-model.caffemodel"
    weights.write_bytes(net.SerializeToString())
    graph = radixpoint.load(description, weights=weights)
    logits = FloatingEngine(graph).run(images.inputs(0, IMAGES))[graph.output]
    last = next(layer for layer in net.layer if layer.name == "fc1000")
    bias = np.array(last.blobs[1].data) - logits.mean(0)  # else one class would be the answer to every image
    last.blobs[1].ClearField("data")
    last.blobs[1].data.extend(bias.astype(np.float32).tolist())
    weights.write_bytes(net.SerializeToString())
    answers = (logits - logits.mean(0)).argmax(1)
    _kit(folder / "ILSVRC2012_devkit_t12.tar.gz", answers)
    return folder


def _kit(path: Path, answers: np.ndarray) -> None:
    """1,000 leaves in the kit's own order, then inner synsets; numbers from 1."""
    from scipy.io import savemat

    wnids = [f"n{10000000 + 13 * i:08}" for i in range(1000)]
    order = np.random.default_rng(0).permutation(1000)
    table = np.zeros((1003, 1), [(f, "O") for f in ("ILSVRC2012_ID", "WNID", "words", "num_children")])
    for number, place in enumerate(order.tolist()):
        table[number, 0] = (number + 1, wnids[place], "a thing", 0)
    for extra in range(3):
        table[1000 + extra, 0] = (1001 + extra, f"n0000000{extra}", "an inner one", 7)
    meta = io.BytesIO()
    savemat(meta, {"synsets": table})
    number_of = {place: number + 1 for number, place in enumerate(order.tolist())}
    truth = "".join(f"{number_of[answer]}\n" for answer in answers.tolist())
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        add(archive, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth.encode())


def command(folder: Path) -> list[str | Path]:
    return [
        *("reproduce", "kang2018", "--model", SHARED / "ResNet-50-deploy.prototxt"),
        *("--weights", folder / "ResNet-50-model.caffemodel", "--mean", SHARED / "ResNet_mean.binaryproto"),
        *("--images", folder / "ILSVRC2012_img_val.tar", "--labels", folder / "ILSVRC2012_devkit_t12.tar.gz"),
    ]


@pytest.mark.slow("the full ResNet-50, searched")
def test_kangs_setting_in_one_command(setting: Path, tmp_path: Path) -> None:
    chosen = ["--scope", "tensor", "--form", "staged", "--drawn", str(DRAWN), "--limit", "10"]
    told = run(*command(setting), *chosen, "-o", tmp_path / "kang").stdout
    page = (tmp_path / "kang" / "kang2018.md").read_text()
    assert " ".join(page.split()) in " ".join(told.split())
    assert f"Judged on {IMAGES - DRAWN} images; float: top-1 100.00 %" in page
    assert "| the paper | | 16 | | 10 / - | |" in page
    (row,) = [line for line in page.splitlines() if line.startswith("| tensor | staged |")]
    assert "> 16" not in row
    found = radixpoint.searching.result.Result.load(tmp_path / "kang" / "tensor-staged" / "result.json")
    joint, separate = found.policies["joint"], found.policies["separate"]
    assert row.split(" | ")[2] == str(joint.word_length)
    assert row.split(" | ")[4] == f"{separate.conv} / {separate.bn}"
    assert isinstance(found.preprocessing, radixpoint.Preprocessing)
    assert (found.preprocessing.resize_size, found.preprocessing.crop_size) == (256, 224)


def test_what_cannot_be_meant(setting: Path, tmp_path: Path) -> None:
    fails("expected one of them", *command(setting), "--preprocessing", "p.json", "-o", tmp_path / "k")
    fails("no such file", *command(setting)[:6], "--images", tmp_path / "none.tar", "-o", tmp_path / "k",
          "--mean", SHARED / "ResNet_mean.binaryproto")  # fmt: skip
    assert not (tmp_path / "k").exists()
