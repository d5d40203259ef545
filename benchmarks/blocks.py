"""What block reconstruction gains at few bits.

    python benchmarks/blocks.py --data DATA [--bits 5 4] [--scopes channel tensor] [--ends 8]
                                [--bn 16] [--refine none offsets blocks] [--threads 1]

DATA is described in ``resnet50.py``, or ``demo``. One word length for everything that is multiplied, or with
``--ends`` another for the image and the last layer; rule ``loss``, unsigned operands, no labels. Prints the
drop of top-1 with its paired 95 % interval, the share of images on which float and quantized agree, and the
seconds that quantizing took; a line when it is known.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

from msgspec.structs import replace

import radixpoint
from radixpoint.quantization.design import Widths
from radixpoint.quantization.quantize import Quantizer
from resnet50 import Data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bits", type=int, nargs="+", default=[5, 4])
    parser.add_argument("--scopes", nargs="+", default=["channel", "tensor"])
    parser.add_argument("--ends", type=int)
    parser.add_argument("--bn", type=int, nargs="+", default=[16])
    parser.add_argument("--refine", nargs="+", default=["none", "offsets", "blocks"])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    data = Data(arguments.data, None)
    ranges = radixpoint.calibrate(data.graph, data.calibration)
    quantizer = Quantizer(data.graph, ranges, data.calibration)
    print("| bits | bn | a binary point for each | refined | top-1 drop, 95 % | agreement | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for bits, bn, scope, refine in product(arguments.bits, arguments.bn, arguments.scopes, arguments.refine):
        design = radixpoint.Design.separate(
            bits, bn, unsigned=True, binary_point={"scope": scope, "rule": "loss"}
        )
        if arguments.ends is not None:
            ends = dict.fromkeys(("fc", "input"), Widths.all(arguments.ends))
            design = replace(design, classes={**design.classes, **ends})
        techniques = [] if refine == "none" else refine.split("+")
        started = time.perf_counter()
        network = quantizer.quantize(replace(design, refine=techniques))
        seconds = time.perf_counter() - started
        found = radixpoint.evaluate(data.graph, network, data.images, threads=arguments.threads)
        low, high = found.drop_interval
        kept = network.metadata.get("refined", "") or "no"
        print(
            f"| {bits} | {bn} | {scope} | {kept} | {found.drop:+.2f} [{low:+.2f}, {high:+.2f}] "
            f"| {found.agreement:.2f} % | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
