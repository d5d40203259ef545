"""No label is guessed, no pixel altered in silence, and no file takes more than its bound."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radixpoint.data import ImageSet, Preprocessing, load_images, read_classes
from radixpoint.data.preprocessing import MAX_PIXELS
from radixpoint.errors import DataError

COLOURS = np.random.default_rng(3).integers(0, 256, (12, 3)).astype(np.uint8)


def class_folder(root: Path, name: str, colour: int = 0, file: str = "a.png") -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(COLOURS[colour], (4, 4, 3)).copy()).save(root / name / file)


# ------------------------------------------------------------------------------------------------ labels


def test_names_sort_as_text(tmp_path: Path) -> None:
    for name in ("b", "a", "\u00b2", "Z"):
        class_folder(tmp_path, name)
    images = load_images(tmp_path)
    assert images.classes == ("Z", "a", "b", "\u00b2")
    assert images.labels.tolist() == [0, 1, 2, 3]
    images.check((3, 4, 4), 4)


def test_numbers_that_sort_both_ways_alike(tmp_path: Path) -> None:
    for name in ("0", "1", "2"):
        class_folder(tmp_path / "short", name)
    load_images(tmp_path / "short").check((3, 4, 4), 3)
    for number in range(12):
        class_folder(tmp_path / "padded", f"{number:02}", number)
    images = load_images(tmp_path / "padded")
    images.check((3, 4, 4), 12)
    assert images.labels.tolist() == list(range(12))


def test_numbers_that_sort_otherwise_as_text_are_in_no_order(tmp_path: Path) -> None:
    for number in range(12):
        class_folder(tmp_path / "set", str(number), number)
    images = load_images(tmp_path / "set")
    with pytest.raises(DataError, match=r"12 classes that are numbers.*cannot be known.*--classes"):
        images.check((3, 4, 4), 12)
    images.check_shape((3, 4, 4))  # enough to calibrate on them
    names = [str(i) for i in range(12)]
    ordered = load_images(tmp_path / "set", classes=names)
    ordered.check((3, 4, 4), 12)
    for picture, label in zip(ordered.pixels, ordered.labels, strict=True):
        assert (picture[:, 0, 0] == COLOURS[label]).all()


@pytest.mark.parametrize("outputs", [2, 4, 1000])
def test_classes_have_to_account_for_every_output(tmp_path: Path, outputs: int) -> None:
    for name in ("ant", "bee", "cat"):
        class_folder(tmp_path, name)
    with pytest.raises(DataError, match=rf"3 classes, but the network has {outputs} outputs.*--classes"):
        load_images(tmp_path).check((3, 4, 4), outputs)
    with pytest.raises(DataError, match=rf"3 classes, but the network has {outputs}"):
        load_images(tmp_path, classes=["cat", "bee", "ant"]).check((3, 4, 4), outputs)


def test_an_empty_or_unreadable_folder_keeps_its_place(tmp_path: Path) -> None:
    for number, name in enumerate(("ant", "bee", "cat", "dog")):
        class_folder(tmp_path / "set", name, number)
    (tmp_path / "set" / "ant" / "a.png").unlink()
    (tmp_path / "set" / "cat" / "a.png").write_bytes(b"no image")
    (tmp_path / "set" / ".hidden").mkdir()
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "set", "set")
    for source in (tmp_path / "set", tmp_path / "set.tar"):
        images = load_images(source)
        assert images.classes == ("ant", "bee", "cat", "dog"), source
        assert images.labels.tolist() == [1, 3]
        images.check((3, 4, 4), 4)


def test_images_outside_class_folders(tmp_path: Path) -> None:
    class_folder(tmp_path / "set", "ant")
    Image.new("RGB", (4, 4)).save(tmp_path / "set" / "stray.png")
    with pytest.raises(DataError, match=r"stray.png: an image outside any class folder"):
        load_images(tmp_path / "set")


def test_lists_give_indices_or_names(tmp_path: Path) -> None:
    for number in range(3):
        class_folder(tmp_path, "all", number, f"{number}.png")
    (tmp_path / "val.txt").write_text("all/0.png 2\nall/1.png 0\nall/2.png 10\n")
    images = load_images(tmp_path / "val.txt")
    assert (images.classes, images.labels.tolist()) == ((), [2, 0, 10])
    images.check((3, 4, 4), 1000)
    with pytest.raises(DataError, match=r"labels 0..10, but the network has 10 outputs: expected 0..9"):
        images.check((3, 4, 4), 10)
    for far in (10**12, 2**70):
        (tmp_path / "far.txt").write_text(f"all/0.png {far}\n")
        with pytest.raises(DataError, match=f"label {far}"):
            load_images(tmp_path / "far.txt")
    (tmp_path / "names.txt").write_text("all/0.png b\nall/1.png \u00b2\n")
    assert load_images(tmp_path / "names.txt").classes == ("b", "\u00b2")


def test_labels_made_by_hand_are_checked() -> None:
    pixels = np.zeros((2, 3, 4, 4), np.uint8)
    for labels, message in (
        (np.array([-1, 0]), "labels -1..0"),
        (np.array([0, 9]), "labels 0..9"),
    ):
        with pytest.raises(DataError, match=message):
            ImageSet("mine", pixels, labels, (), Preprocessing()).check((3, 4, 4), 5)
    with pytest.raises(DataError, match="expected the number of a class"):
        ImageSet("mine", pixels, np.array([0.0, 1.0]), (), Preprocessing()).check((3, 4, 4), 5)
    with pytest.raises(DataError, match="3 targets of 2 images"):
        ImageSet("mine", pixels, np.arange(3), (), Preprocessing())
    with pytest.raises(DataError, match="without labels"):
        ImageSet("mine", pixels, None, (), Preprocessing()).check((3, 4, 4), 5)
    with pytest.raises(DataError, match="expected uint8"):
        ImageSet("mine", pixels.astype(np.float32), np.array([0, 1]), (), Preprocessing())


# ------------------------------------------------------------------------------------------------ pixels


def one(tmp_path: Path, image: Image.Image, name: str, **saved: object) -> Path:
    folder = tmp_path / "set" / "c"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    image.save(folder / name, **saved)
    return tmp_path / "set"


def test_gray_and_palettes_become_colours_without_loss(tmp_path: Path) -> None:
    gray = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    got = load_images(one(tmp_path, Image.fromarray(gray), "g.png")).pixels[0]
    assert (got == gray).all()
    assert got.shape == (3, 4, 4)
    colours = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    palette = Image.fromarray(colours).quantize(16)
    expected = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    assert (load_images(one(tmp_path, palette, "p.png")).pixels[0] == expected).all()
    bilevel = Image.fromarray(gray > 100)
    assert set(np.unique(load_images(one(tmp_path, bilevel, "b.png")).pixels)) == {0, 255}
    luma = Image.fromarray(colours).convert("L")
    one_channel = Preprocessing((0.5,), (0.5,), channel_order="L")
    assert (
        load_images(one(tmp_path, Image.fromarray(colours), "c.png"), one_channel).pixels[0, 0] == luma
    ).all()


def test_alpha(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (4, 4, 4)).astype(np.uint8)
    rgba[..., 3] = 255
    opaque = load_images(one(tmp_path, Image.fromarray(rgba), "o.png")).pixels[0]
    assert (opaque == rgba[..., :3].transpose(2, 0, 1)).all()
    rgba[0, 0, 3] = 254
    source = one(tmp_path, Image.fromarray(rgba), "t.png")
    with pytest.raises(DataError, match=r"c/t.png: transparent pixels.*lossy alpha"):
        load_images(source)
    assert (load_images(source, Preprocessing(lossy=("alpha",))).pixels[0] == opaque).all()
    four = Preprocessing((0.5,) * 4, (0.5,) * 4, channel_order="stored")
    assert (load_images(source, four).pixels[0] == rgba.transpose(2, 0, 1)).all()
    clear = Image.fromarray(rgba[..., 0]).convert("P")
    with pytest.raises(DataError, match="transparent"):
        load_images(one(tmp_path, clear, "clear.png", transparency=int(np.asarray(clear)[0, 0])))


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_sixteen_bits(tmp_path: Path, name: str) -> None:
    deep = (np.arange(16, dtype=np.uint16).reshape(4, 4) * 4097).astype("<u2")
    if name.endswith("pgm"):  # not every Pillow writes it
        source = tmp_path / "images"
        (source / "a").mkdir(parents=True)
        (source / "a" / name).write_bytes(b"P5 4 4 65535 " + deep.astype(">u2").tobytes())
    else:
        source = one(tmp_path, Image.frombytes("I;16", (4, 4), deep.tobytes()), name)
    with pytest.raises(DataError, match=r"more than 8 bits a channel.*lossy depth"):
        load_images(source)
    got = load_images(source, Preprocessing((0.5,), (0.5,), channel_order="L", lossy=("depth",))).pixels[0, 0]
    assert (got == deep >> 8).all()


def test_sixteen_bits_a_colour(tmp_path: Path) -> None:
    """Pillow itself would keep the upper byte and call that RGB."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(range(24)) for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    (tmp_path / "set" / "c").mkdir(parents=True)
    (tmp_path / "set" / "c" / "deep.png").write_bytes(png)
    assert Image.open(io.BytesIO(png)).mode == "RGB"
    with pytest.raises(DataError, match="more than 8 bits"):
        load_images(tmp_path / "set")
    (tmp_path / "set" / "c" / "deep.png").unlink()
    ppm = b"P6 2 1 65535\n" + bytes(range(12))
    (tmp_path / "set" / "c" / "deep.ppm").write_bytes(ppm)
    with pytest.raises(DataError, match="more than 8 bits"):
        load_images(tmp_path / "set")


def test_printing_inks(tmp_path: Path) -> None:
    inks = Image.fromarray(np.full((4, 4, 4), 90, np.uint8), "CMYK")
    source = one(tmp_path, inks, "c.tif")
    with pytest.raises(DataError, match="printing inks"):
        load_images(source)
    expected = np.asarray(inks.convert("RGB")).transpose(2, 0, 1)
    assert (load_images(source, Preprocessing(lossy=("cmyk",))).pixels[0] == expected).all()


def test_orientation(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    source = one(tmp_path, Image.fromarray(pixels), "o.png", exif=exif)
    upright = np.rot90(pixels, -1).transpose(2, 0, 1)
    assert (load_images(source).pixels[0] == upright).all()
    stored = load_images(source, Preprocessing(exif_orientation="ignore")).pixels[0]
    assert (stored == pixels.transpose(2, 0, 1)).all()


def test_several_pictures_in_a_file(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (0, 200)]
    source = one(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="several pictures"):
        load_images(source)


@pytest.mark.parametrize("channels", [2, 4, 5, 7])
def test_any_number_of_channels(tmp_path: Path, channels: int) -> None:
    """As they are stored, whichever layout; by default refused, never cut to three."""
    last = np.random.default_rng(0).integers(0, 256, (3, 8, 9, channels)).astype(np.uint8)
    stored = Preprocessing((0.5,) * channels, (0.5,) * channels, channel_order="stored")
    for name, images in (("last", last), ("first", last.transpose(0, 3, 1, 2))):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.zeros(3, int))
        got = load_images(tmp_path / f"{name}.npz", stored)
        assert (got.pixels == last.transpose(0, 3, 1, 2)).all()
        assert got.inputs(0, 3).shape == (3, channels, 8, 9)
        with pytest.raises(DataError, match="expected 1 or 3 channels"):
            load_images(tmp_path / f"{name}.npz")
    resized = Preprocessing((0.5,) * channels, (0.5,) * channels, 4, 4, channel_order="stored")
    plane = Image.fromarray(last[0, ..., channels - 1]).resize((4, 4), Image.Resampling.BILINEAR)
    got = load_images(tmp_path / "last.npz", resized).pixels[0, channels - 1]
    assert (got == np.asarray(plane)).all()


def test_layouts_that_cannot_be_told_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", images=np.zeros((2, 3, 5, 3), np.uint8), labels=np.zeros(2, int))
    with pytest.raises(DataError, match="either end could be the channels"):
        load_images(tmp_path / "i.npz")


def test_channels_are_never_broadcast() -> None:
    with pytest.raises(DataError, match="expected 3 channels"):
        Preprocessing().normalize(np.zeros((2, 1, 4, 4), np.uint8))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channel_order": "GBR"}, "channel_order 'GBR'"),
        ({"interpolation": "cubic"}, "interpolation 'cubic'"),
        ({"exif_orientation": "turn"}, "exif_orientation 'turn'"),
        ({"lossy": ("colour",)}, "lossy 'colour'"),
        ({"mean": (np.nan,) * 3}, "finite"),
        ({"rescale": 1e300}, "finite"),
        ({"resize_size": 1 << 40}, "resize_size"),
        ({"channel_order": "stored", "mean": (), "std": ()}, "at least one"),
    ],
)
def test_unknown_names_are_refused_in_python_too(fields: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocessing(**fields)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ bounds


def test_images_as_long_as_a_street(tmp_path: Path) -> None:
    source = one(tmp_path, Image.new("L", (1, 65_000)), "long.png")
    with pytest.raises(DataError, match=rf"256x16640000 pixels: expected 1 to {MAX_PIXELS:,}"):
        load_images(source, Preprocessing(resize_size=256))


def test_pipes_and_devices(tmp_path: Path) -> None:
    class_folder(tmp_path / "set", "c")
    os.mkfifo(tmp_path / "set" / "c" / "b.png")
    assert len(load_images(tmp_path / "set")) == 1
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "l.txt").write_text("pipe 0\n/dev/zero 1\nset/c/a.png 0\n")
    images = load_images(tmp_path / "l.txt")
    assert [name for name, reason in images.unreadable if "no regular file" in reason] == [
        "pipe",
        "/dev/zero",
    ]
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(DataError, match="no regular file"):
            load_images(path)
        with pytest.raises(DataError, match="no regular file"):
            read_classes(path)
        with pytest.raises(DataError, match="no regular file"):
            Preprocessing.load(path)


def test_tars_that_claim_more_than_they_have(tmp_path: Path) -> None:
    item = tarfile.TarInfo("c/huge.png")
    item.size = 3 << 30
    for name, raw in (("plain", item.tobuf()), ("sparse", item.tobuf().replace(b"ustar\x00", b"ustar\x00"))):
        (tmp_path / f"{name}.tar").write_bytes(raw + bytes(1024))
        with pytest.raises(DataError, match=r"c/huge.png: 3,221,225,472 bytes"):
            load_images(tmp_path / f"{name}.tar")


def test_arrays_that_explode(tmp_path: Path) -> None:
    import zipfile

    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (600000000,), }"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as handle:
            handle.write(start)
            for _ in range(600):
                handle.write(bytes(1_000_000))
        archive.writestr("labels.npy", start)
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"images.npy has 600,000,\d+ bytes, compressed"):
        load_images(tmp_path / "bomb.npz")


def test_no_format_runs_a_program(tmp_path: Path) -> None:
    class_folder(tmp_path / "set", "c")
    (tmp_path / "set" / "c" / "b.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n"
    )
    images = load_images(tmp_path / "set")
    assert [name for name, _ in images.unreadable] == ["c/b.jpg"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    class_folder(tmp_path / "set", "c")
    bad = os.fsencode(tmp_path / "set" / "c") + b"/\xff\n.png"
    with open(bad, "wb") as handle:
        handle.write(b"no image")
    images = load_images(tmp_path / "set")
    assert images.unreadable[0][0] == "c/\\xff\\n.png"
    images.unreadable[0][0].encode()  # as a result says it


# ------------------------------------------------------------------------------- found by trying to break it


def test_resized_sizes_are_whole() -> None:
    """The longer side is cut to whole pixels of the exact ratio, as torchvision has it."""
    for size in (224, 232, 256):
        p = Preprocessing(resize_size=size)
        for side in range(20, 1300, 7):
            assert p.array_pixels(np.zeros((side, side, 3), np.uint8)).shape == (3, size, size)
        assert p.array_pixels(np.zeros((206, 103, 3), np.uint8)).shape == (3, 2 * size, size)
        assert p.array_pixels(np.zeros((103, 207, 3), np.uint8)).shape == (3, size, size * 207 // 103)


def test_names_sort_as_they_are_and_not_as_they_are_shown(tmp_path: Path) -> None:
    for number, name in enumerate(("New\u00a0York", "Newark")):
        class_folder(tmp_path / "set", name, number)
    images = load_images(tmp_path / "set")
    assert images.classes == ("Newark", "New\u00a0York")
    (tmp_path / "classes.txt").write_text("New\u00a0York\nNewark\n")
    assert load_images(tmp_path / "set", classes=read_classes(tmp_path / "classes.txt")).labels.tolist() == [
        0,
        1,
    ]
    for name in ("a\u00a0", "a\\xa0"):
        class_folder(tmp_path / "alike", name)
    assert len(load_images(tmp_path / "alike").classes) == 2


@pytest.mark.parametrize(
    "names",
    [("-1", "0", "1", "10", "2"), ("1.0", "10.0", "2.0"), ("0", "1", "2", "10", "x"), ("\u0661", "2", "10")],
)
def test_numbers_of_any_writing(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        class_folder(tmp_path / "set", name)
    with pytest.raises(DataError, match="cannot be known"):
        load_images(tmp_path / "set").check((3, 4, 4), len(names))


@pytest.mark.parametrize("labels", ["-1 0 1", "0 1 other", "1.0 2.0 3.0"])
def test_lists_of_numbers_that_are_no_indices(tmp_path: Path, labels: str) -> None:
    class_folder(tmp_path, "c")
    (tmp_path / "l.txt").write_text("".join(f"c/a.png {label}\n" for label in labels.split()))
    with pytest.raises(DataError, match="expected the outputs' indices"):
        load_images(tmp_path / "l.txt")


def test_tiffs_with_more_than_their_colours(tmp_path: Path) -> None:
    from PIL import TiffImagePlugin

    def tagged(name: str, image: Image.Image, **changed: tuple[int, ...] | int) -> Path:
        source = one(tmp_path, image, name)
        path = source / "c" / name
        raw = bytearray(path.read_bytes())
        start = int.from_bytes(raw[4:8], "little")
        for i in range(int.from_bytes(raw[start : start + 2], "little")):
            at = start + 2 + 12 * i
            tag = f"t{int.from_bytes(raw[at : at + 2], 'little')}"
            if tag in changed:
                raw[at + 8 : at + 10] = int(changed[tag]).to_bytes(2, "little")  # type: ignore[arg-type]
        path.write_bytes(bytes(raw))
        return source

    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8))
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[274] = 6
    turned = one(tmp_path, colours, "o.tif", tiffinfo=info)
    assert (load_images(turned).pixels[0] == np.rot90(np.asarray(colours), -1).transpose(2, 0, 1)).all()
    with pytest.raises(DataError, match="an orientation in a TIFF"):
        load_images(turned, Preprocessing(exif_orientation="ignore"))
    four = Image.fromarray(np.zeros((4, 4, 4), np.uint8), "RGBX")
    with pytest.raises(DataError, match=r"4 samples a pixel|colours of mode RGBX"):
        load_images(one(tmp_path, four, "x.tif"))
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[339] = (2, 2, 2)
    with pytest.raises(DataError, match=r"signed|can be read"):
        load_images(one(tmp_path, colours, "s.tif", tiffinfo=info))
    deep = Image.frombytes("I;16", (4, 4), bytes(32))
    with pytest.raises(DataError, match="gray from black on"):
        load_images(tagged("w.tif", deep, t262=0), Preprocessing(lossy=("depth",)))


def test_a_transparent_colour_of_few_bits(tmp_path: Path) -> None:
    """Pillow scales a gray of 4 bits, but not the gray that its file calls transparent."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 4, 1, 4, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", b"\0\5")
    png += chunk(b"IDAT", zlib.compress(b"\0\x05\x5f")) + chunk(b"IEND", b"")
    (tmp_path / "set" / "c").mkdir(parents=True)
    (tmp_path / "set" / "c" / "t.png").write_bytes(png)
    with pytest.raises(DataError, match="a transparent colour"):
        load_images(tmp_path / "set")
    assert load_images(tmp_path / "set", Preprocessing(lossy=("alpha",))).pixels[0, 0].tolist() == [
        [0, 85, 85, 255]
    ]


def test_links(tmp_path: Path) -> None:
    """A linked folder is followed, once; a link to nothing is told; a tar has what its folder has."""
    class_folder(tmp_path / "elsewhere", "deep")
    class_folder(tmp_path / "set", "c")
    (tmp_path / "set" / "c" / "more").symlink_to(tmp_path / "elsewhere" / "deep")
    (tmp_path / "set" / "c" / "circle").symlink_to(tmp_path / "set" / "c")
    (tmp_path / "set" / "c" / "gone.png").symlink_to(tmp_path / "nowhere")
    os.link(tmp_path / "set" / "c" / "a.png", tmp_path / "set" / "c" / "twin.png")
    images = load_images(tmp_path / "set")
    assert len(images) == 3
    assert [name for name, _ in images.unreadable] == ["c/gone.png"]
    (tmp_path / "set" / "c" / "gone.png").unlink()
    (tmp_path / "set" / "c" / "more").unlink()
    (tmp_path / "set" / "c" / "circle").unlink()
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "set" / "c", "c")
        archive.add(tmp_path / "set" / "c", "c")  # once more: who unpacks it has each file once
        assert any(member.islnk() for member in archive.getmembers())
    assert len(load_images(tmp_path / "set.tar")) == len(load_images(tmp_path / "set")) == 2
    (tmp_path / "set" / "d").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="a link to nothing"):
        load_images(tmp_path / "set")


def test_folders_beside_the_one_that_holds_everything(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        class_folder(tmp_path / "val", name)
    (tmp_path / "other").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    for names, classes in ((("val", "__MACOSX"), ("ant", "bee")), (("val", "other"), None)):
        with tarfile.open(tmp_path / "set.tar", "w") as archive:
            for name in names:
                archive.add(tmp_path / name, name)
        if classes is None:
            with pytest.raises(DataError, match="a folder without images beside"):
                load_images(tmp_path / "set.tar")
        else:
            assert load_images(tmp_path / "set.tar").classes == classes
