"""The pixel store on a miniature ImageNet: 50,000 synthetic JPEGs of real size, in one archive.

    python benchmarks/images.py [--images 50000] [--folder FOLDER]

Makes an archive of 500 x 375 JPEGs of about 100 KB (kept in FOLDER for the next time), then, each in a
process of its own: decodes 2,000 of them by Pillow alone, on one core and on all (the peer); loads the set
for the first time; loads it again; reads every pixel. Prints seconds and the largest resident memory.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

KINDS = 64
"""Different pictures; each file is one of them, with a number of its own behind its end."""
SOME = 2000


def make(path: Path, count: int) -> None:
    random = np.random.default_rng(0)
    data = []
    for _ in range(KINDS):
        smooth = Image.fromarray(random.integers(0, 256, (12, 16, 3)).astype(np.uint8)).resize((500, 375))
        noisy = np.asarray(smooth).astype(np.int64) + random.normal(0, 14, (375, 500, 3))
        stream = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=92)
        data.append(stream.getvalue())
    with tarfile.open(path, "w") as archive:
        for i in range(count):
            own = data[i % KINDS] + i.to_bytes(8, "little")  # what follows the end of a JPEG is ignored
            member = tarfile.TarInfo(f"ILSVRC2012_val_{i + 1:08}.JPEG")
            member.size = len(own)
            archive.addfile(member, io.BytesIO(own))


def pillow(path: Path, threads: int) -> None:
    """The peer: shorter side to 256, the middle 224 x 224, nothing else."""
    files = []
    with tarfile.open(path) as archive:
        for member in itertools.islice(archive, SOME):
            handle = archive.extractfile(member)
            assert handle is not None  # they are regular files
            files.append(handle.read())

    def one(data: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(data)).convert("RGB").resize((341, 256), Image.Resampling.BILINEAR)
        return np.asarray(image.crop((58, 16, 282, 240)))

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(one, files):
            pass
    print(json.dumps({"seconds": time.perf_counter() - started}))


def load(path: Path, store: Path, read: bool) -> None:
    from radixpoint.data import Preprocessing, load_images

    started = time.perf_counter()
    prepared = Preprocessing(resize_size=256, crop_size=224)
    images = load_images(path, prepared, store=store)
    digest, ready = images.digest, time.perf_counter() - started
    if read:
        for batch in images.batches(250):
            assert batch.shape[1:] == (3, 224, 224)
    seconds, most = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = {
        "images": len(images),
        "ready": ready,
        "seconds": seconds,
        "resident_mb": most / 1024,
        "digest": digest,
    }
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=50000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "radixpoint-images")
    parser.add_argument("--do", nargs="*", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    path, store = asked.folder / f"{asked.images}.tar", asked.folder / "store"
    if asked.do:
        kind, *rest = asked.do
        if kind == "pillow":
            pillow(path, int(rest[0]))
        else:
            load(path, store, kind == "read")
        return
    if not path.exists():
        make(path, asked.images)
    for old in store.glob("*") if store.exists() else ():
        old.unlink()
    cores = os.cpu_count() or 1

    def run(*what: str) -> dict[str, float]:
        command = [
            sys.executable,
            __file__,
            "--images",
            str(asked.images),
            "--folder",
            str(asked.folder),
            "--do",
            *what,
        ]
        told: dict[str, float] = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
        return told

    print(f"{asked.images:,} images, {path.stat().st_size / asked.images / 1000:.0f} KB each, {cores} cores")
    print("| what | seconds | images a second | resident, MB |")
    print("|---|---|---|---|")
    for threads in sorted({1, cores}):
        took = run("pillow", str(threads))["seconds"]
        print(f"| Pillow alone, {threads} threads, {SOME:,} images | {took:.1f} | {SOME / took:.0f} | |")
    for text, kind in (
        ("first start", "load"),
        ("second start", "load"),
        ("second start, every pixel read", "read"),
    ):
        told = run(kind)
        print(
            f"| {text} | {told['seconds']:.1f} | {asked.images / told['seconds']:.0f} | "
            f"{told['resident_mb']:.0f} |"
        )


if __name__ == "__main__":
    main()
