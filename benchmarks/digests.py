"""The same integers before and after a change: digests of quantized networks, searches and exports.

    python benchmarks/digests.py --data DATA --out before.json    # with the one version installed
    python benchmarks/digests.py --data DATA --out after.json --compare before.json   # with the other

``--data demo`` takes the network inside the package, a folder the full-width ResNet-50 that lies there.
Ranges are measured anew, so compare on one machine. Uses the public interface alone, which both versions
must have; exits 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import radixpoint
from radixpoint.engines import quantize_images
from radixpoint.export import export_network
from resnet50 import Data

DESIGNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "staged, by channel": {"batch_norm": "staged", "binary_point": {"scope": "channel", "rule": "mse"}},
    "folded, unsigned": {"batch_norm": "folded", "unsigned": True},
    "network, loss": {"binary_point": {"scope": "network", "rule": "loss"}},
    "class, mse, reciprocal": {
        "binary_point": {"scope": "class", "rule": "mse"},
        "average_pool": "reciprocal",
    },
    "class, percentile, toward zero": {
        "binary_point": {"scope": "class", "rule": "percentile"},
        "rounding": "TRN_ZERO",
        "overflow": "SAT_SYM",
    },
    "sqnr": {"binary_point": {"rule": "sqnr"}},
    "channel, loss, refined": {
        "binary_point": {"scope": "channel", "rule": "loss"},
        "refine": ["columns", "offsets"],
    },
    "units, equalized": {"refine": ["units"], "equalize": True},
    "stochastic, wrapping sums": {
        "rounding": "STOCHASTIC",
        "parameter_rounding": "STOCHASTIC",
        "average_pool": "reciprocal",
        "seed": 7,
        "accumulator": {"word_length": 20},
    },
    "floats": {
        "codes": {
            "weights": {"kind": "float", "exponent_bits": 4},
            "activations": {"kind": "float", "exponent_bits": 4},
        }
    },
    "logarithms": {"codes": {"weights": {"kind": "log2"}, "activations": {"kind": "log_sqrt2"}}},
    "codebook": {"codes": {"weights": {"kind": "codebook"}}},
}
TARGETS = ("vectors", "c", "hls", "verilog", "onnx", "qonnx", "hls4ml")
IMAGES = 64
_RELEASE = re.compile(rb'"version": *"[^"]*"')
"""All that a run folder or an export says of the release; ``radixpoint export`` repeats it in a manifest."""


def folder_digest(folder: Path, skip: tuple[str, ...] = ()) -> str:
    """SHA-256 of every file, without the release's number."""
    content = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if name not in skip and not name.startswith("cache"):
            content.update(name.encode() + b"\0" + _RELEASE.sub(b"", path.read_bytes()))
    return content.hexdigest()[:16]


def digests(data: str, scratch: Path) -> dict[str, str]:
    given = Data(Path(data), 600 if data == "demo" else IMAGES)
    graph, images, calibration = given.graph, given.images, given.calibration.first(IMAGES)
    ranges = radixpoint.calibrate(graph, calibration)
    found = {"graph": graph.digest[:16]}
    for name, options in DESIGNS.items():
        design = radixpoint.Design.separate(8, 12, **options)
        network = radixpoint.quantize(graph, ranges, design, calibration)
        found[name] = network.digest[:16]
        print(name, found[name], flush=True)
        if name != "plain" or data != "demo":
            continue
        stored = quantize_images(network, images.inputs(0, 2))
        for target in TARGETS:
            out = scratch / target
            export_network(network, target, out, stored, {})
            found[f"export {target}"] = folder_digest(out)
            print("export", target, flush=True)
    if data == "demo":
        out = scratch / "run"
        radixpoint.search(
            graph,
            images,
            calibration,
            out,
            policies=["joint", "separate", "per-layer", "greedy"],
            word_lengths=range(4, 9),
        )
        found["search"] = folder_digest(out, skip=("ranges.npz", "run.json"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--compare", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = digests(asked.data, Path(scratch))
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    if asked.compare is not None:
        before = json.loads(asked.compare.read_text())
        differ = [name for name in before | found if before.get(name) != found.get(name)]
        print(f"{len(found)} digests, {len(differ)} differ", *differ, sep="\n  ")
        sys.exit(bool(differ))


if __name__ == "__main__":
    main()
