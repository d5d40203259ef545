"""The searches behind ``docs/results.md`` and ``docs/reproduction.md``.

    python benchmarks/reproduce.py results      --data DATA --runs RUNS
    python benchmarks/reproduce.py reproduction --data DATA --runs RUNS [--images 1000]
    python benchmarks/reproduce.py ranges       --data DATA --runs RUNS
    python benchmarks/reproduce.py refinement   --data DATA --runs RUNS [--images 5000] [--bits 6 5 4]
    python benchmarks/reproduce.py equalization    --data DATA --runs RUNS [--images 1000]
    python benchmarks/reproduce.py representations --data DATA --runs RUNS [--images 5000] [--bits 8 6 5 4]

DATA holds a full-width ResNet-50 (``resnet50-tiny-imagenet.safetensors``, torchvision's names),
``images-search.tar``, ``images-calibration.tar`` and ``wnids.txt``. Each search is a run folder in RUNS, all
share RUNS/cache, and what is there already is not repeated. Prints Markdown tables; ``reproduction`` also
writes the plot (needs matplotlib).
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from pathlib import Path
from typing import Any

import radixpoint
from radixpoint.equalize import equalized
from radixpoint.policies import POLICIES
from radixpoint.quantize import Quantizer
from radixpoint.search import Watcher
from radixpoint.sites import sites, stored_parameters

FORMS = ("affine", "staged", "folded")
RULES = {
    "tensor": ("max", "percentile", "mse"),
    "channel": ("max", "percentile", "mse"),
    "class": ("max", "percentile", "mse", "loss"),
    "network": ("max", "percentile", "mse", "loss"),
}


class Log(Watcher):
    """One line an evaluation, with the time."""

    def judged(self, text: str, evaluation: Any, verdict: str, cached: bool) -> None:
        low, high = evaluation.drop_interval
        print(
            f"  {time.strftime('%H:%M:%S')} {text}: {evaluation.drop:+.2f} [{low:+.2f}, {high:+.2f}] on "
            f"{evaluation.images}: {verdict}{' (known)' if cached else ''}",
            flush=True,
        )


class Data:
    def __init__(self, folder: Path, images: int | None) -> None:
        classes = radixpoint.read_classes(folder / "wnids.txt")
        self.graph = radixpoint.load(folder / "resnet50-tiny-imagenet.safetensors", (3, 64, 64))
        self.images = radixpoint.load_images(folder / "images-search.tar", classes=classes)
        self.calibration = radixpoint.load_images(folder / "images-calibration.tar", classes=classes)
        if images is not None:
            self.images = self.images.first(images)

    def search(self, runs: Path, name: str, metric: str, limit: float, **options: Any) -> dict[str, Any]:
        started = time.time()
        finished = runs / name / "result.json"
        if not finished.exists():
            print(f"{name}:", flush=True)
            radixpoint.search(
                self.graph,
                self.images,
                self.calibration,
                runs / name,
                radixpoint.Criterion(metric, limit),
                watcher=Log(),
                cache=runs / "cache",
                **options,
            )
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"  {time.time() - started:.0f} s, peak memory so far {memory:.2f} GiB", flush=True)
        return json.loads(finished.read_text())


def _interval(policy: dict[str, Any]) -> str:
    if policy["drop"] is None:
        return "none holds"
    low, high = policy["drop_interval"]
    return f"{policy['drop']:+.2f} [{low:+.2f}, {high:+.2f}]"


def results(data: Data, runs: Path) -> None:
    """Both forms that keep batch normalization, at three limits, on all images."""
    rows = []
    for form in ("affine", "staged"):
        for metric, limit in (("top1", 1.0), ("top1", 0.5), ("top5", 1.0)):
            name = f"results-{form}-{metric}-{limit}"
            result = data.search(runs, name, metric, limit, batch_norm=form)
            joint, separate = result["policies"]["joint"], result["policies"]["separate"]
            rows.append(
                f"| {form} | {metric}, {limit} | {joint['word_length']} | {_interval(joint)} | "
                f"{separate['conv']} / {separate['bn']} | {_interval(separate)} | "
                f"{separate.get('relative_cost') or float('nan'):.2f} |"
            )
    print(f"\nfloat: top-1 {result['float']['top1']:.2f} %, top-5 {result['float']['top5']:.2f} %\n")
    print("| batch normalization | limit, points | joint, bits | drop | separate, conv / bn | drop | cost |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def reproduction(data: Data, runs: Path) -> None:
    """Every scope, form of batch normalization and rule, at 1.0 point of top-1."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    combinations = [(scope, form, rule) for scope, rules in RULES.items() for form in FORMS for rule in rules]
    # The default rule of each scope and the affine form first: the most telling when time runs out.
    combinations.sort(key=lambda c: (c[2] not in (RULES[c[0]][0], "loss"), FORMS.index(c[1])))
    for scope, form, rule in combinations:
        name = f"reproduction-{len(data.images)}-{scope}-{form}-{rule}"
        found[scope, form, rule] = data.search(
            runs, name, "top1", 1.0, batch_norm=form, binary_point={"scope": scope, "rule": rule}
        )
    print("\n| scope | rule | " + " | ".join(f"{form}: joint; conv / bn" for form in FORMS) + " |")
    print("|---|---|" + "---|" * len(FORMS))
    for scope, rules in reversed(RULES.items()):
        for rule in rules:
            cells = []
            for form in FORMS:
                policies = found[scope, form, rule]["policies"]
                joint, separate = policies["joint"]["word_length"], policies["separate"]
                cells.append(f"{joint or '> 16'}; {separate['conv'] or '> 16'} / {separate['bn'] or '-'}")
            print(f"| {scope} | {rule} | " + " | ".join(cells) + " |")
    _plot(found, Path(__file__).parent.parent / "docs" / "reproduction.svg")


def ranges(data: Data, runs: Path) -> None:
    """How far apart the largest magnitudes of the tensors of a class lie, in bits."""
    measured = radixpoint.calibrate(data.graph, data.calibration)
    for form in FORMS:
        design = radixpoint.Design.separate(16, 16, batch_norm=form)
        spans: dict[str, list[float]] = {}
        for site in sites(data.graph, measured, design, stored_parameters(data.graph, design)):
            top = max(-site.statistics.low.min(), site.statistics.high.max())
            spans.setdefault(f"{site.layer_class}, {site.kind}", []).append(float(top))
        print(f"\n{form}\n\n| class, kind | tensors | largest magnitude | smallest | apart, bits |")
        print("|---|---|---|---|---|")
        for kind, tops in spans.items():
            apart = math.log2(max(tops) / min(tops))
            print(f"| {kind} | {len(tops)} | {max(tops):.3g} | {min(tops):.3g} | {apart:.1f} |")
        every = [top for tops in spans.values() for top in tops]
        print(f"| everything | {len(every)} | {max(every):.3g} | {min(every):.3g} | "
              f"{math.log2(max(every) / min(every)):.1f} |")  # fmt: skip


def _plot(found: dict[tuple[str, str, str], dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "radixpoint"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(RULES), figsize=(14, 4), sharey=True)
    for axis, scope in zip(axes, reversed(RULES), strict=True):
        rule = RULES[scope][-1] if scope in ("class", "network") else "max"
        for colour, form in enumerate(FORMS):
            policies = found[scope, form, rule]["policies"]
            for series, style in (("joint", "--"), ("separate", "-")):
                tried = policies[series]["conv_search" if series == "separate" else "tried"]
                axis.plot(
                    [t["word_length"] for t in tried],
                    [max(t["drop"], -1) for t in tried],
                    style,
                    marker="o",
                    ms=3,
                    color=f"C{colour}",
                    label=f"{form}, {series}",
                )
        axis.axhline(1.0, color="0.6", lw=0.8)
        axis.set(
            title=f"{scope} ({rule})",
            xlabel="bits (joint: all; separate: conv, bn 16)",
            xlim=(5.5, 16.5),
            ylim=(-2, 20),
        )
    axes[0].set_ylabel("top-1 drop, percentage points")
    axes[-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


TECHNIQUES = ((), ("offsets",), ("offsets", "columns"), ("offsets", "units"), ("offsets", "columns", "units"))


def refinement(data: Data, runs: Path, bits: list[int]) -> None:
    """Nearest rounding, then each technique switched on; one line when it is known, kept in RUNS."""
    ranges = radixpoint.calibrate(data.graph, data.calibration)
    quantizer = Quantizer(data.graph, ranges, data.calibration)
    print(
        "| conv, bits | binary points | refined by | top-1 | drop | agrees with float | seconds to quantize |"
    )
    print("|---|---|---|---|---|---|---|")
    for word in bits:
        for scope in ("channel", "tensor"):
            for techniques in TECHNIQUES:
                name = (
                    f"refinement-{len(data.images)}-{word}-{scope}-{'+'.join(techniques) or 'nearest'}.json"
                )
                kept = runs / name
                if not kept.exists():
                    point = {"scope": scope, "rule": "loss"}
                    design = radixpoint.Design.separate(
                        word, 16, binary_point=point, unsigned=True, refine=list(techniques)
                    )
                    started = time.time()
                    network = quantizer.quantize(design)
                    seconds = time.time() - started
                    found = radixpoint.evaluate(data.graph, network, data.images)
                    result = {"seconds": seconds, "accuracy": found.top1, "drop": found.drop}
                    result |= {"interval": found.drop_interval, "agreement": found.agreement}
                    kept.write_text(json.dumps(result))
                r = json.loads(kept.read_text())
                low, high = r["interval"]
                print(
                    f"| {word} | {scope} | {' + '.join(techniques) or 'nearest rounding'} | "
                    f"{r['accuracy']:.2f} % | {r['drop']:+.2f} [{low:+.2f}, {high:+.2f}] | "
                    f"{r['agreement']:.2f} % | {r['seconds']:.0f} |",
                    flush=True,
                )


REPRESENTATIONS = (
    *(
        "separate",
        "dynamic",
        "codebook",
        "float-weights",
        "sqnr",
        "minifloat",
        "log2",
        "uniform",
        "stochastic",
    ),
    "log-sqrt2",
)


def representations(data: Data, runs: Path, bits: list[int]) -> None:
    """Every policy of two word lengths at given ones, batch normalization at 16; no design is chosen."""
    quantizer = Quantizer(data.graph, radixpoint.calibrate(data.graph, data.calibration), data.calibration)
    print("| policy | " + " | ".join(f"{w} bits" for w in bits) + " |\n|---|" + "---|" * len(bits))
    for policy in REPRESENTATIONS:
        cells = []
        for word in bits:
            kept = runs / f"representations-{len(data.images)}-{policy}-{word}.json"
            if not kept.exists():
                point = {"scope": "channel" if policy == "separate" else "tensor", "rule": "loss"}
                options = {"binary_point": point, "unsigned": True}
                design = POLICIES[policy].design(word, 16, options, data.graph)
                found = radixpoint.evaluate(data.graph, quantizer.quantize(design), data.images)
                kept.write_text(json.dumps({"drop": found.drop, "drop_interval": found.drop_interval}))
            cells.append(_interval(json.loads(kept.read_text())))
        print(f"| {policy} | " + " | ".join(cells) + " |", flush=True)


def equalization(data: Data, runs: Path) -> None:
    """Agreement with float, plain and equalized."""
    ranges = radixpoint.calibrate(data.graph, data.calibration)
    other = equalized(data.graph, ranges)
    both = ((data.graph, ranges), (other, radixpoint.calibrate(other, data.calibration)))
    print("| binary points | conv, bits | plain | equalized |\n|---|---|---|---|")
    for scope in ("tensor", "channel"):
        point = {"scope": scope, "rule": "percentile", "percentile": 99.8}
        for word in (6, 5, 4):
            design = radixpoint.Design.separate(word, 16, binary_point=point, unsigned=True)
            found = [
                radixpoint.evaluate(graph, radixpoint.quantize(graph, seen, design), data.images)
                for graph, seen in both
            ]
            print(
                f"| {scope} | {word} | " + " | ".join(f"{e.agreement:.2f} %" for e in found) + " |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "table",
        choices=("results", "reproduction", "ranges", "refinement", "representations", "equalization"),
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--images", type=int)
    parser.add_argument("--bits", type=int, nargs="+", default=[6, 5, 4])
    arguments = parser.parse_args()
    data = Data(arguments.data, arguments.images)
    if arguments.table == "refinement":
        refinement(data, arguments.runs, arguments.bits)
        return
    if arguments.table == "representations":
        representations(data, arguments.runs, arguments.bits)
        return
    plain = {"results": results, "reproduction": reproduction, "ranges": ranges, "equalization": equalization}
    plain[arguments.table](data, arguments.runs)


if __name__ == "__main__":
    main()
