"""Images from every source give the same set; labels that lie apart; the pixel store."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from radixpoint.data import ImageSet, Preprocessing, load_images
from radixpoint.data import decode as decoding
from radixpoint.data.store import StoredPixels
from radixpoint.errors import DataError

PLAIN = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3)
WNIDS = ("n01440764", "n01443537", "n02102040", "n02979186")
"""Of classes, sorted, as networks have them."""
KIT_ORDER = (WNIDS[2], WNIDS[0], WNIDS[3], WNIDS[1])
"""As the development kit numbers them, from 1."""
TRUTH = [3, 1, 1, 4, 2, 3]


def pictures(count: int = 6, size: tuple[int, int] = (10, 8)) -> list[np.ndarray]:
    random = np.random.default_rng(4)
    return [random.integers(0, 256, (*size[::-1], 3)).astype(np.uint8) for _ in range(count)]


def png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def name(number: int) -> str:
    return f"ILSVRC2012_val_{number + 1:08}.JPEG"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """As ImageNet's validation archive unpacks; PNG inside, so that pixels stay what they are."""
    folder = tmp_path / "val"
    folder.mkdir()
    for number, picture in enumerate(pictures()):
        (folder / name(number)).write_bytes(png(picture))
    return folder


def expected() -> list[int]:
    """Outputs of the network: the kit's numbers through its names into sorted order."""
    return [WNIDS.index(KIT_ORDER[number - 1]) for number in TRUTH]


def kit(folder: Path) -> Path:
    """A miniature of the development kit, in exactly its layout: leaves first, then an inner synset."""
    from scipy.io import savemat

    data = folder / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(i + 1, wnid, f"thing {i}", 0) for i, wnid in enumerate(KIT_ORDER)] + [
        (5, "n00001740", "entity", 4)
    ]
    table = np.zeros((5, 1), fields)
    for i, row in enumerate(rows):
        table[i, 0] = row
    savemat(data / "meta.mat", {"synsets": table})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{n}\n" for n in TRUTH))
    return data.parent


# ------------------------------------------------------------------------------------ ImageNet's labels


def test_the_development_kit(flat: Path, tmp_path: Path) -> None:
    """Its folder, its archive, its ground truth beside meta.mat: the same labels, in sorted order."""
    own = kit(tmp_path)
    archive = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(own, own.name)
    packed_images = tmp_path / "ILSVRC2012_img_val.tar"
    with tarfile.open(packed_images, "w") as packed:
        for item in sorted(flat.iterdir(), reverse=True):  # in whatever order
            packed.add(item, item.name)
    truth = own / "data" / "ILSVRC2012_validation_ground_truth.txt"
    for images in (flat, packed_images):
        for labels in (own, own / "data", tmp_path, archive, truth):
            found = load_images(images, PLAIN, labels=labels)
            assert found.labels.tolist() == expected()
            assert found.classes == WNIDS
            found.check((3, 8, 10), 4)
    with pytest.raises(DataError, match="4 classes, but the network has 1000 outputs"):
        load_images(flat, PLAIN, labels=own).check((3, 8, 10), 1000)


def test_a_kit_that_does_not_fit(flat: Path, tmp_path: Path) -> None:
    own = kit(tmp_path)
    truth = own / "data" / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n2\n")
    with pytest.raises(DataError, match=r"2 labels, which belong to ILSVRC2012_val_00000001"):
        load_images(flat, PLAIN, labels=own)
    truth.write_text("".join(f"{n}\n" for n in [*TRUTH[:-1], 5]))  # no leaf
    with pytest.raises(DataError, match="label 5: expected the number of a synset"):
        load_images(flat, PLAIN, labels=truth)
    (tmp_path / "truth.txt").write_text("".join(f"{n}\n" for n in TRUTH))
    with pytest.raises(DataError, match=r"an order of their own: expected its meta\.mat beside"):
        load_images(flat, PLAIN, labels=tmp_path / "truth.txt")
    (own / "data" / "meta.mat").write_bytes(b"MATLAB 5.0 or so")
    truth.write_text("".join(f"{n}\n" for n in TRUTH))
    with pytest.raises(DataError, match=r"meta\.mat cannot be read"):
        load_images(flat, PLAIN, labels=own)
    (tmp_path / "kit.tar.gz").write_bytes(b"\x1f\x8b nothing")
    with pytest.raises(DataError, match="not ImageNet's development kit"):
        load_images(flat, PLAIN, labels=tmp_path / "kit.tar.gz")


def test_lists_and_tables(flat: Path, tmp_path: Path) -> None:
    """Caffe's val.txt, and tables of names as Kaggle has them."""
    (tmp_path / "val.txt").write_text("".join(f"{name(i)} {label}\n" for i, label in enumerate(expected())))
    found = load_images(flat, PLAIN, labels=tmp_path / "val.txt")
    assert (found.labels.tolist(), found.classes) == (expected(), ())
    rows = [f"{Path(name(i)).stem},{WNIDS[x]} 1 2 3 4 {WNIDS[x]} 5 6 7 8" for i, x in enumerate(expected())]
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(rows))
    found = load_images(flat, PLAIN, labels=tmp_path / "LOC_val_solution.csv")
    assert (found.labels.tolist(), found.classes) == (expected(), WNIDS)
    (tmp_path / "short.txt").write_text(f"{name(0)} 1\n")
    with pytest.raises(DataError, match=f"no label for {name(1)}"):
        load_images(flat, PLAIN, labels=tmp_path / "short.txt")
    (tmp_path / "twice.txt").write_text(f"{name(0)} 1\n{name(0)} 2\n")
    with pytest.raises(DataError, match="has label '1' already"):
        load_images(flat, PLAIN, labels=tmp_path / "twice.txt")
    (tmp_path / "mixed.txt").write_text("".join(f"{name(i)} {'1' if i else 'cat'}\n" for i in range(6)))
    with pytest.raises(DataError, match="labels that are numbers and names"):
        load_images(flat, PLAIN, labels=tmp_path / "mixed.txt")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="columns a, b: expected one of images"):
        load_images(flat, PLAIN, labels=tmp_path / "t.csv")
    for text, message in (
        ("image,label\na.png,great white shark,3\n", "another number of cells"),
        ("image,label\n,cat\n", "no name of an image"),
        ('image,label\n"a.png,cat\n', "not a table"),
        ("image,label,label\na,b,c\n", "columns image, label, label"),
    ):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            load_images(flat, PLAIN, labels=tmp_path / "t.csv")
    lines = "".join(f"{name(i)},{'great white shark' if i % 2 else 'great grey owl'}\r\n" for i in range(6))
    (tmp_path / "t.csv").write_bytes(f"image,label\r\n{lines}".encode())
    assert load_images(flat, PLAIN, labels=tmp_path / "t.csv").classes == (
        "great grey owl",
        "great white shark",
    )
    with pytest.raises(DataError, match="no such file"):
        load_images(flat, PLAIN, labels=tmp_path / "nowhere")


def test_the_kit_goes_by_the_images_numbers(tmp_path: Path) -> None:
    """Sorted into folders, as many have them, or some of them: each has its own label."""
    own = kit(tmp_path)
    for number, picture in enumerate(pictures()):
        folder = tmp_path / "sorted" / f"x{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        if number != 3:
            (folder / name(number)).write_bytes(png(picture))
    found = load_images(tmp_path / "sorted", PLAIN, labels=own)
    order = [0, 2, 4, 1, 5]  # by folder
    assert found.labels.tolist() == [expected()[i] for i in order]
    (tmp_path / "sorted" / "x0" / "other.png").write_bytes(png(pictures()[0]))
    with pytest.raises(DataError, match=r"x0/other\.png in .* is none of these"):
        load_images(tmp_path / "sorted", PLAIN, labels=own)


def test_names_that_repeat(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / "set" / folder).mkdir(parents=True)
        (tmp_path / "set" / folder / "1.png").write_bytes(png(pictures()[0]))
    (tmp_path / "l.txt").write_text("a/1.png 0\nb/1.png 1\n")
    assert load_images(tmp_path / "set", PLAIN, labels=tmp_path / "l.txt").labels.tolist() == [0, 1]
    (tmp_path / "l.txt").write_text("a/1.png 0\n")
    with pytest.raises(DataError, match=r"no label for b/1\.png"):
        load_images(tmp_path / "set", PLAIN, labels=tmp_path / "l.txt")
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks" / "1.npy", np.zeros(3))
    with pytest.raises(DataError, match="expected a target for each image"):
        load_images(tmp_path / "set", PLAIN, labels=tmp_path / "masks")


def test_images_without_labels(flat: Path) -> None:
    found = load_images(flat, PLAIN)
    assert found.targets is None
    found.check_shape((3, 8, 10))
    with pytest.raises(DataError, match="images without labels: expected a folder for each class"):
        found.check((3, 8, 10), 4)
    (flat / "cat").mkdir()
    (flat / "cat" / "1.png").write_bytes(png(pictures(1)[0]))
    with pytest.raises(DataError, match="an image outside any class folder"):
        load_images(flat, PLAIN)


def test_only_what_is_wanted_is_decoded(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    usual = decoding.picture

    def noted(data: bytes, name: str, preprocessing: Preprocessing) -> np.ndarray:
        seen.append(name)
        return usual(data, name, preprocessing)

    whole = load_images(flat, PLAIN, labels=list(range(6)))
    monkeypatch.setattr(decoding, "picture", noted)
    some = load_images(flat, PLAIN, labels=list(range(6)), most=2)
    assert len(seen) == len(some) == 2
    assert some.digest == whole.first(2).digest


def test_masks_and_arrays_beside(flat: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for i in range(6):
        stem = Path(name(i)).stem
        Image.fromarray(np.full((8, 10), i, np.uint8)).save(masks / f"{stem}.png")
    found = load_images(flat, PLAIN, labels=masks)
    assert [int(mask[0, 0]) for mask in found.target(0, 6)] == list(range(6))
    np.save(tmp_path / "boxes.npy", np.zeros((6, 2, 5)))
    assert np.shape(load_images(flat, PLAIN, labels=tmp_path / "boxes.npy").target(0, 6)) == (6, 2, 5)
    assert load_images(flat, PLAIN, labels=[{"a": i} for i in range(6)]).target(2, 3) == ({"a": 2},)
    with pytest.raises(DataError, match="5 targets of 6 images"):
        load_images(flat, PLAIN, labels=range(5))
    (masks / f"{Path(name(3)).stem}.png").unlink()
    with pytest.raises(DataError, match="expected a target for each image"):
        load_images(flat, PLAIN, labels=masks)
    Image.fromarray(pictures(1)[0]).save(masks / f"{Path(name(3)).stem}.png")
    with pytest.raises(DataError, match="colours of mode RGB: expected class numbers"):
        load_images(flat, PLAIN, labels=masks)


# -------------------------------------------------------------------------------------------- archives


def test_webdataset(tmp_path: Path) -> None:
    paths = []
    for shard in range(2):
        paths.append(tmp_path / f"train-{shard:03}.tar")
        with tarfile.open(paths[-1], "w") as archive:
            for i in range(3):
                number = 3 * shard + i
                for suffix, data in (("png", png(pictures()[number])), ("cls",
                f"{expected()[number]}".encode()),
                                     ("json", json.dumps({"x": 1}).encode())):  # fmt: skip
                    member = tarfile.TarInfo(f"{number:06}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    found = load_images(tmp_path / "train-{000..001}.tar", PLAIN)
    assert found.labels.tolist() == expected()
    assert np.array_equal(found.pixels, np.stack(pictures()).transpose(0, 3, 1, 2))
    assert load_images(tmp_path / "train-*.tar", PLAIN).digest == found.digest
    with pytest.raises(DataError, match=r"train-002.tar: no such file"):
        load_images(tmp_path / "train-{000..002}.tar", PLAIN)
    with tarfile.open(paths[1], "a") as archive:
        data = png(pictures()[0])
        member = tarfile.TarInfo("lonely.png")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    with pytest.raises(DataError, match=r"no lonely\.cls: expected a label beside each image"):
        load_images(paths[1], PLAIN)


def packed(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for own, data in members.items():
            member = tarfile.TarInfo(own)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_samples_that_are_not_one_image_and_one_label(tmp_path: Path) -> None:
    data = png(pictures()[0])
    for members, message in (
        ({"0.png": data, "0.seg.png": data, "0.cls": b"1"}, "a second image of the sample 0"),
        ({"i.1.png": data, "i.1.cls": b"0", "i.2.png": data, "i.2.cls": b"1"}, "no i.cls"),
        ({"0.png": data, "0.cls": b"1", "1.cls": b"2"}, "1.cls: no image beside it"),
        ({"0.png": data, "0.cls": b" "}, "expected the number or name of a class"),
    ):
        with pytest.raises(DataError, match=message):
            load_images(packed(tmp_path / "x.tar", members), PLAIN)
    fine = packed(tmp_path / "f.tar", {"0.png": data, "0.cls": b"1", "0.fine.cls": b"7"})
    assert load_images(fine, PLAIN).labels.tolist() == [1]
    with pytest.raises(DataError, match="label 1, and 1 classes are named"):
        load_images(fine, PLAIN, ["only"])


def test_archives_have_one_layout_together(tmp_path: Path) -> None:
    data = png(pictures()[0])
    packed(tmp_path / "s-0.tar", {"cat/x/1.png": data})
    packed(tmp_path / "s-1.tar", {"dog/x/1.png": data})
    assert load_images(tmp_path / "s-{0..1}.tar", PLAIN).classes == ("cat", "dog")
    packed(tmp_path / "s-1.tar", {"1.png": data})
    with pytest.raises(DataError, match="an image outside any class folder"):
        load_images(tmp_path / "s-{0..1}.tar", PLAIN)


def test_parquet(tmp_path: Path) -> None:
    """As Hugging Face stores it: structs of bytes, names of the classes in the metadata."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [{"bytes": png(p), "path": None} for p in pictures()]
    table = pyarrow.table({"image": images, "label": expected()})
    parquet.write_table(table, tmp_path / "plain.parquet", row_group_size=4)
    found = load_images(tmp_path / "plain.parquet", PLAIN)
    assert (found.labels.tolist(), found.classes) == (expected(), ())
    assert np.array_equal(found.pixels, np.stack(pictures()).transpose(0, 3, 1, 2))
    names = {"info": {"features": {"label": {"names": list("dbca")}}}}
    described = table.replace_schema_metadata({"huggingface": json.dumps(names)})
    (tmp_path / "set").mkdir()
    parquet.write_table(described.slice(0, 2), tmp_path / "set" / "0.parquet")
    parquet.write_table(described.slice(2), tmp_path / "set" / "1.parquet")
    found = load_images(tmp_path / "set", PLAIN)
    assert (found.labels.tolist(), found.classes) == (expected(), tuple("dbca"))
    parquet.write_table(described.slice(2), tmp_path / "set" / "test-0.parquet")
    with pytest.raises(DataError, match="expected the tables of one set"):
        load_images(tmp_path / "set", PLAIN)
    (tmp_path / "set" / "test-0.parquet").unlink()
    parquet.write_table(table.slice(2), tmp_path / "set" / "1.parquet")
    with pytest.raises(DataError, match="other columns or classes than the tables before it"):
        load_images(tmp_path / "set", PLAIN)
    for labels, message in (
        ([-1] * 6, "label -1: expected"),
        ([0.0, 1, 2, 0, 1, 2], "labels of kinds float"),
        ([True] * 6, "labels of kinds bool"),
        ([[0]] * 6, "labels of kinds list"),
        ([0, None, 1, 1, 1, 1], "labels of kinds NoneType, int"),
    ):
        parquet.write_table(pyarrow.table({"image": images, "label": labels}), tmp_path / "odd.parquet")
        with pytest.raises(DataError, match=message):
            load_images(tmp_path / "odd.parquet", PLAIN)
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match="columns text: expected one of images"):
        load_images(tmp_path / "text.parquet", PLAIN)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(DataError, match="expected a Parquet table"):
        load_images(tmp_path / "bad.parquet", PLAIN)


# ---------------------------------------------------------------------------------------------- arrays


def test_arrays_of_any_kind(tmp_path: Path) -> None:
    floats = np.random.default_rng(0).normal(size=(4, 5, 6, 7))
    np.savez(tmp_path / "f.npz", x=floats.astype(np.float16), y=np.arange(4))
    found = load_images(tmp_path / "f.npz")
    assert found.preprocessing is None
    assert np.array_equal(found.inputs(0, 4), floats.astype(np.float16).astype(np.float32))
    np.save(tmp_path / "f.npy", floats)
    assert np.array_equal(load_images(tmp_path / "f.npy").inputs(1, 3), floats[1:3].astype(np.float32))
    with pytest.raises(DataError, match="floats are inputs of the network: expected no preprocessing"):
        load_images(tmp_path / "f.npy", PLAIN)
    deep = np.random.default_rng(0).integers(0, 4096, (4, 6, 7, 5)).astype(np.uint16)
    np.save(tmp_path / "deep.npy", deep)
    stored = Preprocessing(mean=(2,) * 5, std=(4,) * 5, rescale=0.5, channel_order="stored")
    found = load_images(tmp_path / "deep.npy", stored)
    assert np.array_equal(found.inputs(0, 4), (deep.transpose(0, 3, 1, 2) * 0.5 - 2).astype(np.float32) / 4)
    with pytest.raises(
        DataError, match="images are uint16: expected uint8, or a preprocessing with channel_order"
    ):
        load_images(tmp_path / "deep.npy", PLAIN)
    np.save(tmp_path / "huge.npy", np.full((2, 3, 4), 1e300))
    with pytest.raises(DataError, match="more than float32 can"):
        load_images(tmp_path / "huge.npy")
    np.savez(tmp_path / "none.npz", other=floats)
    with pytest.raises(DataError, match="arrays other: expected arrays 'images' and 'labels'"):
        load_images(tmp_path / "none.npz")
    np.save(tmp_path / "labels.npy", np.arange(4))
    assert load_images(tmp_path / "f.npy", labels=tmp_path / "labels.npy").labels.tolist() == [0, 1, 2, 3]


# ------------------------------------------------------------------------------------------- iterables


def forms() -> Iterator[tuple[str, Callable[[], Any]]]:
    import torch

    own, labels = pictures(), expected()
    yield "arrays", lambda: list(zip(own, labels, strict=True))
    yield "channels first", lambda: [(p.transpose(2, 0, 1), x) for p, x in zip(own, labels, strict=True)]
    yield "pictures", lambda: ((Image.fromarray(p), x) for p, x in zip(own, labels, strict=True))
    yield "dictionaries", lambda: [{"image": p, "label": x} for p, x in zip(own, labels, strict=True)]
    yield "batches", lambda: [(np.stack(own[:4]), labels[:4]), (np.stack(own[4:]), labels[4:])]
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(np.stack(own)), torch.tensor(labels))
    yield "data set", lambda: tensors
    yield "loader", lambda: torch.utils.data.DataLoader(tensors, batch_size=4)


@pytest.mark.parametrize(("form", "make"), list(forms()), ids=[form for form, _ in forms()])
def test_everything_that_can_be_iterated(form: str, make: Callable[[], Any]) -> None:
    found = load_images(make(), PLAIN, [str(i) for i in range(4)])
    assert np.array_equal(found.pixels, np.stack(pictures()).transpose(0, 3, 1, 2))
    assert found.labels.tolist() == expected()
    assert found.digest == ImageSet("x", found.pixels, found.labels, found.classes, PLAIN).digest


def test_iterables_of_inputs_and_of_anything() -> None:
    floats = np.random.default_rng(0).normal(size=(4, 2, 3, 3)).astype(np.float32)
    found = load_images(list(floats), labels=[np.zeros((i, 5)) for i in range(4)])
    assert np.array_equal(found.inputs(0, 4), floats)
    assert [len(boxes) for boxes in found.target(0, 4)] == [0, 1, 2, 3]
    other = load_images(list(floats), labels=[np.zeros((i, 5)) + (i == 3) for i in range(4)])
    assert other.digest != found.digest
    masks = load_images([(x, x[0] > 0) for x in floats])
    assert np.shape(masks.targets) == (4, 3, 3)
    for items, message in (
        ([], "no images"),
        ([floats[0], floats[1][:, :2]], "expected all alike"),
        ([(floats[0], 1), floats[1]], "images with and without targets"),
        ([{"text": 1}], "has text: expected 'image' and 'label'"),
        ([(1, 2, 3)], "has 3 parts"),
        (["a"], "expected an image"),
        ([(floats[:2], [1])], "2 images with 1 targets"),
        ([Image.fromarray(pictures()[0]), pictures()[1]], "pictures of Pillow and arrays"),
        ([{"image": np.stack(pictures()[:2]), "label": {"a": 1}}], "a dictionary of targets"),
        (7, "expected something that can be iterated"),
    ):
        with pytest.raises(DataError, match=message):
            load_images(items)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------- preprocessing


def test_sizes_and_orders() -> None:
    picture = Image.fromarray(pictures(1, (40, 20))[0])

    def shape(**fields: Any) -> tuple[int, ...]:
        own = Preprocessing(mean=(0,) * 3, std=(1,) * 3, **fields)
        stream = io.BytesIO(png(np.asarray(picture)))
        return own.pixels(Image.open(stream)).shape

    assert shape(resize_size=(10, 12)) == (3, 10, 12)
    assert shape(resize_size=10) == (3, 10, 20)
    assert shape(resize_size=10, crop_size=(6, 18)) == (3, 6, 18)
    assert shape(crop_size=20, resize_size=8, crop_first=True) == (3, 8, 8)
    assert shape(resize_size=16, fit="letterbox") == (3, 16, 16)
    boxed = Preprocessing(mean=(0,) * 3, std=(1,) * 3, resize_size=16, fit="letterbox", fill=114)
    pixels = boxed.pixels(Image.open(io.BytesIO(png(np.asarray(picture)))))
    assert (pixels[:, :4] == 114).all()
    assert (pixels[:, 12:] == 114).all()
    whole = picture.resize((16, 8), Image.Resampling.BILINEAR)
    assert np.array_equal(pixels[:, 4:12], np.asarray(whole).transpose(2, 0, 1))
    for fields, message in (
        ({"resize_size": (0, 3)}, "resize_size"),
        ({"fill": 256}, "fill 256"),
        ({"fit": "squash"}, "fit 'squash'"),
        ({"mean_image": b"123"}, "mean_image of 3 bytes"),
        ({"mean_image": b"\0" * 48, "crop_size": 3}, "mean_image of 48 bytes"),
        ({"fit": "letterbox"}, "fit letterbox without resize_size"),
        ({"fill": 3}, "fill 3 with fit cover"),
        ({"crop_first": True}, "crop_first without"),
        ({"rescale": 0.0}, "rescale 0"),
        ({"resize_size": 4.5}, "a size of 4.5"),
        ({"resize_size": [4, 4]}, "a size of"),
    ):
        with pytest.raises(DataError, match=message):
            Preprocessing(**fields)


def test_a_mean_image_is_subtracted_place_by_place() -> None:
    mean = np.arange(24, dtype="<f4").reshape(3, 2, 4)
    own = Preprocessing((0,) * 3, (2,) * 3, rescale=1, mean_image=mean.tobytes())
    pixels = np.full((2, 3, 2, 4), 30, np.uint8)
    assert np.array_equal(own.normalize(pixels), (30 - mean + np.zeros((2, 1, 1, 1))) / 2)
    with pytest.raises(DataError, match="a mean image of 24 numbers"):
        own.normalize(pixels[..., :3])


PRINTED = {
    "torchvision": """ImageClassification(
    crop_size=[224]
    resize_size=[232]
    mean=[0.485, 0.456, 0.406]
    std=[0.229, 0.224, 0.225]
    interpolation=InterpolationMode.BILINEAR
)""",
    "torchvision, a call": "ImageClassification(crop_size=[224], resize_size=[232], mean=[0.485, 0.456, "
    "0.406], std=[0.229, 0.224, 0.225], interpolation=<InterpolationMode.BILINEAR: 'bilinear'>)",
    "json": '{"crop_size": [224], "resize_size": [232], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, '
    '0.225], "interpolation": "bilinear", "exif_orientation": "ignore"}',
    "timm": "{'input_size': (3, 224, 224), 'interpolation': 'bilinear', 'mean': (0.485, 0.456, 0.406), "
    "'std': (0.229, 0.224, 0.225), 'crop_pct': 0.965, 'crop_mode': 'center'}",
}


@pytest.mark.parametrize("kind", PRINTED)
def test_presets_as_they_are_printed(kind: str, tmp_path: Path) -> None:
    (tmp_path / "p").write_text(PRINTED[kind])
    found = Preprocessing.load(tmp_path / "p")
    assert (found.resize_size, found.interpolation, found.exif_orientation) == (232, "bilinear", "ignore")
    assert found.crop_size in (224, (224, 224))
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_presets_that_are_none(tmp_path: Path) -> None:
    for text, message in (
        ("__import__('os').system('true')", "not a preprocessing"),
        ("ImageClassification(crop_size=open('x'))", "not a preprocessing"),
        ("{'input_size': (3, 224), 'crop_pct': 1}", "input_size"),
        ("{'input_size': (3, 224, 224), 'crop_pct': 1}", "without interpolation, mean, std"),
        (PRINTED["timm"].replace("0.965", "2"), "crop_pct 2"),
        (PRINTED["timm"].replace("0.965", "'a'"), "crop_pct 'a'"),
        (PRINTED["timm"].replace("'center'", "'border'"), "crop_mode 'border'"),
        ("ObjectDetection()", "not a preprocessing"),
        ("ImageClassification(crop_size=[224])", "without mean and std"),
        ("Compose(\n    Resize(size=256)\n)", "not a preprocessing"),
        ("", "not a preprocessing"),
        ("[1]", "expected names and values"),
    ):
        (tmp_path / "p").write_text(text)
        with pytest.raises(DataError, match=message):
            Preprocessing.load(tmp_path / "p")


# ----------------------------------------------------------------------------------------------- store


@pytest.fixture
def stored(flat: Path, tmp_path: Path) -> tuple[ImageSet, Path]:
    (flat / name(6)).write_bytes(b"no image")
    return load_images(flat, PLAIN, store=tmp_path / "store", labels=list(range(7))), tmp_path / "store"


def test_a_store_gives_the_same_set(
    stored: tuple[ImageSet, Path], flat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, store = stored
    plain = load_images(flat, PLAIN, labels=list(range(7)), store=False)
    assert isinstance(found.pixels, StoredPixels)
    assert found.digest == plain.digest
    assert found.unreadable == plain.unreadable
    assert [name for name, _ in found.unreadable] == [name_ for name_ in [name(6)]]
    assert np.array_equal(found.inputs(1, 5), plain.inputs(1, 5))
    assert found.first(3).digest == plain.first(3).digest
    assert [p.digest for p in found.parted(2)] == [p.digest for p in plain.parted(2)]
    assert found.shared_with(plain) == 6
    monkeypatch.setattr(decoding, "picture", lambda *_: pytest.fail("decoded again"))
    again = load_images(flat, PLAIN, store=store, labels=list(range(7)))
    assert again.digest == plain.digest
    assert again.unreadable == plain.unreadable


def test_a_store_follows_what_it_was_made_from(stored: tuple[ImageSet, Path], flat: Path) -> None:
    found, store = stored
    picture = 255 - pictures()[2]
    (flat / name(2)).write_bytes(png(picture))
    os.utime(flat / name(2), ns=(1, 1))
    changed = load_images(flat, PLAIN, store=store, labels=list(range(7)))
    assert np.array_equal(changed.pixels[2], picture.transpose(2, 0, 1))
    assert not np.array_equal(found.pixels[2], changed.pixels[2])
    larger = Preprocessing((0.5,) * 3, (0.25,) * 3, resize_size=16)
    assert load_images(flat, larger, store=store).pixels.shape[2:] == (16, 20)


def test_damage_is_noticed(stored: tuple[ImageSet, Path], flat: Path) -> None:
    """A changed byte when it is read; a file cut short, or its index, when it is opened: made again."""
    found, store = stored
    (pixels,), (index,) = store.glob("*.bin"), store.glob("*.index")
    whole = pixels.read_bytes()
    with pixels.open("r+b") as handle:
        handle.seek(3 * 240 + 7)
        handle.write(bytes([whole[3 * 240 + 7] ^ 1]))
    assert np.array_equal(found.pixels[:3], np.stack(pictures()[:3]).transpose(0, 3, 1, 2))
    with pytest.raises(DataError, match="image 3 is damaged: delete the file"):
        found.inputs(0, 6)
    for damage in (
        lambda: pixels.write_bytes(whole[:-1]),
        lambda: index.write_bytes(index.read_bytes()[:-3]),
    ):
        damage()
        again = load_images(flat, PLAIN, store=store, labels=list(range(7)))
        assert np.array_equal(again.pixels, np.stack(pictures()).transpose(0, 3, 1, 2))


def test_a_store_that_cannot_be_made(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot hold pixels"):
        load_images(flat, PLAIN, store=tmp_path / "file" / "x")


def test_many_pixels_go_to_the_users_store(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADIXPOINT_STORE", str(tmp_path / "mine"))
    assert isinstance(load_images(flat, PLAIN).pixels, np.ndarray)
    assert not (tmp_path / "mine").exists()
    monkeypatch.setattr(decoding, "STORED_FROM", 1000)
    assert isinstance(load_images(flat, PLAIN).pixels, StoredPixels)
    assert len(list((tmp_path / "mine").iterdir())) == 2
    assert isinstance(load_images(flat, PLAIN, store=False).pixels, np.ndarray)


def test_several_processes_make_one_store(flat: Path, tmp_path: Path) -> None:
    code = ("import sys; from radixpoint.data import load_images, Preprocessing as P; "
            "print(load_images(sys.argv[1], P((.5,)*3, (.25,)*3), store=sys.argv[2]).digest)")  # fmt: skip
    command = [sys.executable, "-c", code, str(flat), str(tmp_path / "store")]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    told = [one.communicate() for one in running]
    assert {out.strip() for out, _ in told} == {load_images(flat, PLAIN).digest}, told
    assert len(list((tmp_path / "store").iterdir())) == 2
