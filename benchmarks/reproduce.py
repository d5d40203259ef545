"""The searches behind ``docs/results.md`` and ``docs/reproduction.md``.

    python benchmarks/reproduce.py results      --data DATA --runs RUNS
    python benchmarks/reproduce.py reproduction --data DATA --runs RUNS [--images 1000]
    python benchmarks/reproduce.py ranges       --data DATA --runs RUNS

DATA is described in ``resnet50.py``. Each search is a run folder in RUNS, all share RUNS/cache, and what is
there already is not repeated. Prints Markdown tables; ``reproduction`` also
writes the plot (needs matplotlib).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import radixpoint
from radixpoint.quantization.sites import sites, stored_parameters
from radixpoint.searching.result import Result
from resnet50 import Data, interval

FORMS = ("affine", "staged", "folded")
RULES = {
    "tensor": ("max", "percentile", "mse"),
    "channel": ("max", "percentile", "mse"),
    "class": ("max", "percentile", "mse", "loss"),
    "network": ("max", "percentile", "mse", "loss"),
}


def results(data: Data, runs: Path) -> None:
    """Both forms that keep batch normalization, at three limits, on all images."""
    rows = []
    for form in ("affine", "staged"):
        for metric, limit in (("top1", 1.0), ("top1", 0.5), ("top5", 1.0)):
            name = f"results-{form}-{metric}-{limit}"
            result = data.search(runs, name, metric, limit, batch_norm=form)
            joint, separate = result.policies["joint"], result.policies["separate"]
            rows.append(
                f"| {form} | {metric}, {limit} | {joint.word_length} | {interval(joint)} | "
                f"{separate.conv} / {separate.bn} | {interval(separate)} | "
                f"{separate.relative_cost or float('nan'):.2f} |"
            )
    print(f"\nfloat: top-1 {result.floating.top1:.2f} %, top-5 {result.floating.top5:.2f} %\n")
    print("| batch normalization | limit, points | joint, bits | drop | separate, conv / bn | drop | cost |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def reproduction(data: Data, runs: Path) -> None:
    """Every scope, form of batch normalization and rule, at 1.0 point of top-1."""
    found: dict[tuple[str, str, str], Result] = {}
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
                policies = found[scope, form, rule].policies
                joint, separate = policies["joint"].word_length, policies["separate"]
                cells.append(f"{joint or '> 16'}; {separate.conv or '> 16'} / {separate.bn or '-'}")
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


def _plot(found: dict[tuple[str, str, str], Result], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "radixpoint"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(RULES), figsize=(14, 4), sharey=True)
    for axis, scope in zip(axes, reversed(RULES), strict=True):
        rule = RULES[scope][-1] if scope in ("class", "network") else "max"
        for colour, form in enumerate(FORMS):
            policies = found[scope, form, rule].policies
            for series, style in (("joint", "--"), ("separate", "-")):
                tried = policies[series].conv_search if series == "separate" else policies[series].tried
                axis.plot(
                    [t.word_length for t in tried],
                    [max(t.drop, -1) for t in tried],
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("table", choices=("results", "reproduction", "ranges"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--images", type=int)
    arguments = parser.parse_args()
    data = Data(arguments.data, arguments.images)
    {"results": results, "reproduction": reproduction, "ranges": ranges}[arguments.table](
        data, arguments.runs
    )


if __name__ == "__main__":
    main()
