"""Fewer bits on a ResNet-50: the rest of ``docs/results.md``.

    python benchmarks/fewer_bits.py separate        --data DATA --runs RUNS
    python benchmarks/fewer_bits.py ablation        --data DATA --runs RUNS
    python benchmarks/fewer_bits.py representations --data DATA --runs RUNS
    python benchmarks/fewer_bits.py held-out        --data DATA --runs RUNS
    python benchmarks/fewer_bits.py frontier        --data DATA --runs RUNS [--plots docs]
    python benchmarks/fewer_bits.py seconds         --data DATA --runs RUNS

DATA is described in ``resnet50.py``, or ``demo``; RUNS keeps every evaluation, so that nothing is done twice.
Prints Markdown tables, a line when it is known. Plots need matplotlib.

``separate``: smallest word lengths with the best binary points, nearest rounding. ``ablation``: one technique
after the other, a tensor and a channel to a binary point. ``representations``: every policy of two word
lengths at given ones. ``held-out``: chosen on half of the images, reported on the other half. ``frontier``:
cost against drop, with word lengths by layer. ``seconds``: what rounding search takes.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from radixpoint.arithmetic.formats import Rounding
from radixpoint.measure.evaluate import Evaluation, summarize
from radixpoint.measure.metrics import TopK
from radixpoint.quantization.codes import operand_grid, weight_grid
from radixpoint.quantization.design import Design
from radixpoint.quantization.refine import IMAGES, Refiner
from radixpoint.quantization.sites import real_weights
from radixpoint.quantization.stand_in import StandIn
from radixpoint.searching.allocate import (
    Averages,
    Losses,
    Sensitivity,
    allocated,
    averages,
    greedy,
    product_layers,
)
from radixpoint.searching.allocate import frontier as allocations
from radixpoint.searching.judge import Judge
from radixpoint.searching.policies import POLICIES
from radixpoint.searching.strategies import POINTS
from resnet50 import Data, interval

BEST = {"binary_point": {"scope": "channel", "rule": "loss"}, "unsigned": True}
BN = 16
"""Word length of batch normalization, but where it is searched."""


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def drop(evaluation: Evaluation) -> str:
    return interval(msgspec.to_builtins(evaluation))


def whole(judge: Judge, design: Design, text: str = "") -> Evaluation:
    """On every image."""
    return judge.judge(text, design, whole=True)[0]


def separate(data: Data, runs: Path) -> None:
    """Two limits, then by the convolutions' word length."""
    row("a binary point for each", "limit, points of top-1", "conv / bn, bits", "top-1", "drop")
    row(*["---"] * 5)
    for scope, limit in product(("channel", "tensor"), (0.5, 1.0)):
        options = {"binary_point": {"scope": scope, "rule": "loss"}, "unsigned": True}
        name = f"separate-{scope}-{limit}"
        found = data.search(runs, name, "top1", limit, policies=["separate"], **options)
        best = found.policies["separate"]
        row(scope, limit, f"{best['conv']} / {best['bn']}", f"{best['top1']:.2f} %", interval(best))
    row("conv, bits", "drop", "agrees with float")
    row(*["---"] * 3)
    judge = data.judge(runs)
    for word in (8, 7, 6, 5, 4):
        found = whole(judge, Design.separate(word, BN, **BEST))
        row(word, drop(found), f"{found.agreement:.2f} %")


# ------------------------------------------------------------------------------------------- ablation

OFFSETS, COLUMNS, UNITS = (["offsets", "columns", "units"][: n + 1] for n in range(3))
STEPS: tuple[tuple[str, dict[str, Any], dict[str, tuple[int, ...]]], ...] = (
    ("rule `max`", {"rule": "max"}, {"channel": (12, 11, 10, 9), "tensor": (12, 11, 10)}),
    ("rule `sqnr`", {"rule": "sqnr"}, {"channel": (8, 7, 6, 5), "tensor": (7, 6, 5)}),
    ("rule `loss`", {"rule": "loss"}, {"channel": (8, 7, 6, 5), "tensor": (7, 6, 5)}),
    ("+ unsigned", {"rule": "loss", "unsigned": True},
     {"channel": (8, 7, 6, 5, 4), "tensor": (8, 7, 6, 5, 4)}),
    ("+ equalized (not kept)", {"rule": "loss", "unsigned": True, "equalize": True},
     {"channel": (6, 5), "tensor": (8, 7, 6, 5)}),
    ("+ offsets", {"rule": "loss", "unsigned": True, "refine": OFFSETS},
     {"channel": (6, 5, 4), "tensor": (7, 6, 5)}),
    ("+ columns", {"rule": "loss", "unsigned": True, "refine": COLUMNS},
     {"channel": (7, 6, 5), "tensor": (7, 6, 5)}),
    ("+ units", {"rule": "loss", "unsigned": True, "refine": UNITS}, {"channel": (6, 5), "tensor": (6, 5)}),
)  # fmt: skip
"""Each with what came before, but for what is not kept; and word lengths around the smallest that holds."""
HOPELESS = 5.0
"""Points; no shorter word length is tried."""


def ablation(data: Data, runs: Path) -> None:
    """Drop by word length as techniques are switched on, and the smallest that holds."""
    judge = data.judge(runs)
    for scope in ("channel", "tensor"):
        print(f"\nA {scope} to a binary point:\n")
        row("", "within 1.0", "within 0.5", "by bits of weights and activations: drop, agrees with float")
        row(*["---"] * 4)
        for name, options, lengths in STEPS:
            point = {"scope": scope, "rule": options["rule"]}
            fields = {key: value for key, value in options.items() if key != "rule"}
            found: dict[int, Evaluation] = {}
            for word in lengths[scope]:
                design = Design.separate(word, BN, binary_point=point, **fields)
                found[word] = whole(judge, design, f"{scope}, {name}, {word}")
                if found[word].drop > HOPELESS:
                    break

            def smallest(limit: float, found: dict[int, Evaluation] = found) -> str:
                """Down to the first that fails."""
                held = None
                for word, evaluation in found.items():
                    if evaluation.drop > limit:
                        break
                    held = word
                return f"> {max(found)}" if held is None else str(held)

            cells = (f"{w}: {drop(e)}, {e.agreement:.1f} %" for w, e in found.items())
            row(name, smallest(1.0), smallest(0.5), "; ".join(cells))


# ------------------------------------------------------------------------------------ representations

REPRESENTED = (8, 6, 5, 4)
FEW = 1000
"""Images that judge what the native engine runs in part only: coded activations, stochastic rounding."""
NATIVE = 16
"""Bits of the longest operand that the native engine multiplies itself."""


def representations(data: Data, runs: Path) -> None:
    """Every policy of two word lengths, batch normalization at 16 bits; nothing is chosen by accuracy."""
    everything, few = data.judge(runs), data.judge(runs, data.images.first(FEW))
    few.quantizer = everything.quantizer
    layers = product_layers(data.graph, unsigned=True)
    row("policy", *(f"{word} bits" for word in REPRESENTED))
    row(*["---"] * (1 + len(REPRESENTED)))
    for policy in sorted(POLICIES, key=lambda name: name == "stochastic"):
        cells = []
        for word in REPRESENTED:
            scope = "channel" if policy == "separate" else "tensor"
            options = {"binary_point": {"scope": scope, "rule": "loss"}, "unsigned": True}
            design = POLICIES[policy].design(word, BN, options, data.graph)
            grids = [weight_grid(design, "", "conv"), operand_grid(design, "", "conv", True)]
            slow = design.codes.activations is not None or design.rounding is Rounding.STOCHASTIC
            slow = slow or any(grid is not None and grid.word_length > NATIVE for grid in grids)
            cell = drop(whole(few if slow else everything, design, f"{policy}, {word}"))
            if design.layers:
                own = {name: design.layers[name] for name in layers}
                pairs = {name: (one.weights or 0, one.activations or 0) for name, one in own.items()}
                bits = averages(layers, pairs)
                cell += f" ({bits['weight']:.1f}, {bits['operand']:.1f} bits)"
            cells.append(cell)
        row(policy, *cells)


# ------------------------------------------------------------------------------------------- frontier

LENGTHS = (3, 4, 5, 6, 7)
WORTH = (3.4, 5.2)
"""Refined are the allocations whose multipliers have so many bits."""


def allocated_designs(judge: Judge) -> Iterator[tuple[Averages, Design]]:
    """The frontier of word lengths by layer, the cheapest last: average bits, design."""
    start = Design.separate(LENGTHS[-1], BN, **BEST)
    layers = product_layers(judge.graph, unsigned=True)
    sensitivity = judge.measured("sensitivity", start, LENGTHS, Sensitivity, Losses.measure)
    for allocation in allocations(sensitivity, layers, POINTS):
        yield averages(layers, allocation), allocated(start, allocation, judge.graph)


def greedy_designs(judge: Judge) -> Iterator[tuple[Averages, Design]]:
    """Of the path of Judd et al., the designs at the cost of those worth refining: average bits, design."""
    start = Design.separate(LENGTHS[-1], BN, **BEST)
    layers = product_layers(judge.graph, unsigned=True)
    path = judge.measured("greedy", start, LENGTHS, list[dict[str, tuple[int, int]]], greedy)
    points = [(averages(layers, one), one) for one in path]
    for average, _ in allocated_designs(judge):
        bits = average.multiplier
        if WORTH[0] <= bits <= WORTH[1]:
            found, allocation = min(points, key=lambda point: abs(point[0].multiplier - bits))
            yield found, allocated(start, allocation, judge.graph)


def held_out(data: Data, runs: Path) -> None:
    """The cheapest that holds on half of the images, reported on the other half."""
    judge = data.judge(runs)
    order = np.random.default_rng(0).permutation(len(data.images))
    halves = np.split(order, [len(order) // 2])

    def judged(design: Design) -> list[Evaluation]:
        """On each half."""
        outcomes = judge.outcomes("", design)
        parts = [[o.chosen(half) for o in outcomes] for half in halves]
        return [summarize(reference, found, TopK(1)) for reference, found in parts]

    uniform = [(f"{word}, {word}", Design.separate(word, BN, **BEST)) for word in (4, 5, 6, 7)]
    by_layer = [
        (f"{average['weight']:.2f}, {average['operand']:.2f}", design)
        for average, design in reversed(list(allocated_designs(judge)))
    ]
    row(
        "policy", "limit", "bits of weights, operands", "drop, images that chose", "drop, images that did not"
    )
    row(*["---"] * 5)
    for name, designs in (("separate", uniform), ("per-layer", by_layer)):
        for limit in (1.0, 0.5):
            for text, design in designs:
                chosen, others = judged(design)
                if chosen.drop <= limit:
                    row(name, limit, text, drop(chosen), drop(others))
                    break


def frontier(data: Data, runs: Path, plots: Path | None) -> None:
    """Joint, separate, by layer: cost against drop. All are chosen on calibration images alone."""
    judge = data.judge(runs)
    curves: dict[str, list[tuple[float, float, float, float]]] = {}

    def note(curve: str, bits: float, design: Design, text: str = "") -> None:
        found = whole(judge, design, f"{curve} {bits:.2f}")
        curves.setdefault(curve, []).append((bits, found.drop, *found.drop_interval))
        row(curve, f"{bits:.4g}", text, drop(found), f"{found.agreement:.2f} %")

    row("designs", "bits of a multiplier", "average bits: weight, operand", "drop", "agrees with float")
    row(*["---"] * 5)
    for word in (14, 13, 12):
        note("joint, rule max", word, Design.joint(word))
    for word in (12, 11, 10, 9):
        note("separate, rule max", word, Design.separate(word, BN))
    for word in (10, 9, 8):
        note("joint", word, Design.joint(word, **BEST))
    for word in (8, 7, 6, 5, 4):
        note("separate", word, Design.separate(word, BN, **BEST))
    for word in (6, 5):
        note("separate, refined", word, Design.separate(word, BN, **BEST, refine=COLUMNS))
    for average, design in allocated_designs(judge):
        bits = average.multiplier
        text = f"{average['weight']:.2f}, {average['operand']:.2f}"
        note("per-layer", bits, design, text)
        if WORTH[0] <= bits <= WORTH[1]:
            better = msgspec.structs.replace(design, refine=COLUMNS)
            note("per-layer, refined", bits, better, text)
    for average, design in greedy_designs(judge):
        text = f"{average['weight']:.2f}, {average['operand']:.2f}"
        note("greedy", average.multiplier, design, text)
    if plots is not None:
        _plot(curves, plots / "frontier.svg")


def _plot(curves: dict[str, list[tuple[float, float, float, float]]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "radixpoint"
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for number, (name, points) in enumerate(curves.items()):
        bits, drops, low, high = zip(*sorted(points), strict=True)
        cost = [(b / 16) ** 2 for b in bits]
        colour = f"C{number}"
        axis.plot(cost, drops, "-o" if "per-layer" in name else "--s", ms=3, color=colour, label=name)
        axis.fill_between(cost, low, high, color=colour, alpha=0.08, lw=0)
    axis.axhline(1.0, color="0.6", lw=0.8)
    axis.set(
        xlabel="multiplier bits of all convolutions and the fully connected layer, relative to 16 x 16",
        ylabel="top-1 drop, percentage points",
        xscale="log",
        ylim=(-1.5, 10),
    )
    ticks = [4, 5, 6, 8, 10, 12, 14]
    axis.set_xticks([(t / 16) ** 2 for t in ticks], [f"{(t / 16) ** 2:.2f}\n({t} x {t})" for t in ticks])
    axis.minorticks_off()
    axis.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


# -------------------------------------------------------------------------------------------- seconds


def seconds(data: Data, runs: Path) -> None:
    """Of rounding search alone, the whole network at 6 bits, by the images it looks at."""
    quantizer = data.judge(runs).quantizer
    design = Design.separate(6, BN, **BEST)
    network = quantizer.quantize(design)
    weights = real_weights(data.graph, design)
    row("techniques", "images", "seconds", "peak memory, GiB")
    row(*["---"] * 4)
    everything = len(data.calibration)
    for techniques, count in ((COLUMNS, IMAGES), (COLUMNS, everything), (UNITS, everything)):
        started = time.time()
        operands = StandIn(data.graph, quantizer.ranges).operands
        Refiner(data.graph, data.calibration, operands, count).refine(network, weights, techniques)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        row("+".join(techniques), count, f"{time.time() - started:.0f}", f"{memory:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    tables = {
        "separate": separate,
        "ablation": ablation,
        "representations": representations,
        "held-out": held_out,
        "seconds": seconds,
    }
    parser.add_argument("table", choices=(*tables, "frontier"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--images", type=int)
    parser.add_argument("--plots", type=Path)
    arguments = parser.parse_args()
    data = Data(arguments.data, arguments.images)
    if arguments.table == "frontier":
        frontier(data, arguments.runs, arguments.plots)
    else:
        tables[arguments.table](data, arguments.runs)


if __name__ == "__main__":
    main()
