"""Images from every kind of source, preprocessing, and what must be reported."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radixpoint.data import Preprocessing, load_images, read_classes
from radixpoint.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for index in range(3):
            pixels = random.integers(0, 256, (10, 12, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / label / f"{index}.png")
    return tmp_path / "set"


def test_folder_tar_list_and_npz_agree(folder: Path, tmp_path: Path) -> None:
    expected = load_images(folder)
    assert expected.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert expected.pixels.shape == (6, 3, 10, 12)
    sources = []
    for depth, name in ((0, "flat.tar"), (1, "deep.tar.gz")):
        with tarfile.open(tmp_path / name, "w:gz" if depth else "w") as archive:
            for file in sorted(folder.rglob("*.png")):
                archive.add(file, str(Path(*(["top"] * depth), file.relative_to(folder))))
        sources.append(tmp_path / name)
    files = sorted(folder.rglob("*.png"))
    lines = [f"{f.relative_to(tmp_path)} {f.parent.name}" for f in files]
    (tmp_path / "list.txt").write_text("# images\n" + "\n".join(lines) + "\n")
    np.savez(tmp_path / "set.npz", images=expected.pixels.transpose(0, 2, 3, 1), labels=expected.labels)
    np.savez(tmp_path / "first.npz", images=expected.pixels, labels=expected.labels)
    for source in (*sources, tmp_path / "list.txt", tmp_path / "set.npz", tmp_path / "first.npz"):
        got = load_images(source)
        assert np.array_equal(got.pixels, expected.pixels), source
        assert np.array_equal(got.labels, expected.labels), source
        assert got.digest == expected.digest, source


def test_class_order(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "classes").write_text("dog\nfish\ncat\n")
    assert load_images(folder, classes=read_classes(tmp_path / "classes")).labels.tolist() == [
        2,
        2,
        2,
        0,
        0,
        0,
    ]


def test_preprocessing_by_hand(folder: Path) -> None:
    image = Image.open(folder / "cat" / "0.png")
    p = Preprocessing(resize_size=20, crop_size=16, mean=(0.1, 0.2, 0.3), std=(1, 2, 4), channel_order="BGR")
    pixels = p.pixels(image)
    assert pixels.shape == (3, 16, 16)
    resized = np.asarray(image.resize((24, 20), Image.Resampling.BILINEAR))[2:18, 4:20]
    assert np.array_equal(pixels, resized.transpose(2, 0, 1)[::-1])
    got = p.normalize(pixels[None])[0]
    expected = (pixels / 255 - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array([1, 2, 4])[:, None, None]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_preprocessing_json(tmp_path: Path) -> None:
    torchvision = {
        "resize_size": [256],
        "crop_size": [224],
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
        "interpolation": "bicubic",
    }
    (tmp_path / "p.json").write_text(json.dumps(torchvision))
    p = Preprocessing.load(tmp_path / "p.json")
    assert (p.resize_size, p.crop_size, p.interpolation) == (256, 224, "bicubic")
    for bad, message in (
        ('{"mean": [1]}', "1 means and 3 deviations"),
        ('{"std": [0, 1, 1]}', "positive"),
        ('{"sizes": 3}', "sizes"),
        ("{", "not a preprocessing"),
        ('{"crop_size": 0}', "positive"),
    ):
        (tmp_path / "p.json").write_text(bad)
        with pytest.raises(DataError, match=message):
            Preprocessing.load(tmp_path / "p.json")
    with pytest.raises(DataError, match="nowhere"):
        Preprocessing.load(tmp_path / "nowhere")


def test_unreadable_images_are_reported(folder: Path) -> None:
    whole = (folder / "cat" / "1.png").read_bytes()
    (folder / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "2.png").write_bytes(b"no image")
    images = load_images(folder)
    assert [name for name, _ in images.unreadable] == ["cat/1.png", "dog/2.png"]
    assert len(images) == 4
    for file in folder.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="none of 6 images can be read"):
        load_images(folder)


def test_bad_sources(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        load_images(tmp_path / "empty")
    with pytest.raises(DataError, match="no such file"):
        load_images(tmp_path / "nowhere")
    (tmp_path / "x.tar").write_bytes(b"not a tar")
    with pytest.raises(DataError, match="expected a folder"):
        load_images(tmp_path / "x.tar")
    with pytest.raises(DataError, match="1 of 2 labels are no known class, such as 'dog'"):
        load_images(folder, classes=["cat"])
    Image.new("RGB", (5, 5)).save(folder / "dog" / "3.png")
    with pytest.raises(DataError, match=r"declare resize_size and crop_size"):
        load_images(folder)
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match=r"list.txt: not a list of images in UTF-8"):
        load_images(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("justone\n")
    with pytest.raises(DataError, match="line 1"):
        load_images(tmp_path / "list.txt")
    np.savez(tmp_path / "f.npz", images=np.full((2, 4, 4), np.nan, np.float32), labels=np.zeros(2, int))
    with pytest.raises(DataError, match="hold NaN"):
        load_images(tmp_path / "f.npz")
    np.savez(tmp_path / "c.npz", images=np.zeros((2, 4, 4), complex), labels=np.zeros(2, int))
    with pytest.raises(DataError, match="images are complex128"):
        load_images(tmp_path / "c.npz")
    np.savez(tmp_path / "l.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=np.array([0, -1]))
    with pytest.raises(DataError, match="class numbers"):
        load_images(tmp_path / "l.npz")
    (tmp_path / "twice").write_text("a\na\n")
    with pytest.raises(DataError, match="distinct"):
        read_classes(tmp_path / "twice")


def test_parts_tell_what_was_unreadable(folder: Path) -> None:
    (folder / "dog" / "broken.png").write_bytes(b"no image")
    images = load_images(folder)
    ((name, reason),) = images.unreadable
    assert name.endswith("broken.png")
    assert "0x" not in reason  # the same in every run
    first, rest = images.parted(1)
    assert (first.unreadable, rest.unreadable) == (images.unreadable, ())
    assert images.first(1).unreadable == images.unreadable


def test_labels_and_shapes_must_fit_the_network(folder: Path) -> None:
    images = load_images(folder)
    with pytest.raises(DataError, match=r"2 classes.*1 outputs"):
        images.check((3, 10, 12), 1)
    with pytest.raises(DataError, match=r"the network takes \(1, 10, 12\)"):
        images.check((1, 10, 12), 2)
