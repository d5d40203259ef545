"""The figures of ``docs/hardware.md``: three designs of a full-width ResNet-50 in hardware.

    python benchmarks/hardware.py designs --data DATA [--plots docs]
    python benchmarks/hardware.py verify  --data DATA
    python benchmarks/hardware.py modules [--plots docs]
    python benchmarks/hardware.py ship

DATA holds ``resnet50-tiny-imagenet.safetensors``, ``images-search.tar``, ``images-calibration.tar`` and
``wnids.txt``; images have 64 x 64 pixels. ``designs`` prints the cost of each design, ``verify`` runs each in
Verilog on one image, ``modules`` prints the synthesis of each module at each word length, ``ship`` writes the
results of synthesis that the package holds (after a change of a module). Plots need matplotlib.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations_with_replacement
from pathlib import Path

import msgspec

import radixpoint
from radixpoint.accelerator import synthesis
from radixpoint.accelerator.cost import cost, products_per_dsp
from radixpoint.accelerator.hardware import accelerator_area, accelerator_cost
from radixpoint.engines import quantize_images
from radixpoint.export import export_network, verify_export
from radixpoint.ir.network import IntGraph
from radixpoint.quantization.design import Design

BEST = {"binary_point": {"scope": "channel", "rule": "loss"}, "unsigned": True}
DESIGNS = {
    "joint 14": Design.joint(14),
    "separate 11 / 14": Design.separate(conv=11, bn=14),
    "best 6 / 10": Design.separate(conv=6, bn=10, **BEST),
}
"""Each within 1.0 point of top-1 of float: docs/results.md has the drops and the commands."""
LANES = 16
WORDS = range(4, 17)
OPERANDS = range(12, 1, -1)
"""Of multipliers with operands of two word lengths: all that share a design of up to 11 bits."""


def networks(data: Path) -> dict[str, IntGraph]:
    classes = radixpoint.read_classes(data / "wnids.txt")
    graph = radixpoint.load(data / "resnet50-tiny-imagenet.safetensors", (3, 64, 64))
    calibration = radixpoint.load_images(data / "images-calibration.tar", classes=classes)
    ranges = radixpoint.calibrate(graph, calibration)
    return {name: radixpoint.quantize(graph, ranges, design) for name, design in DESIGNS.items()}


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def designs(data: Path, plots: Path | None) -> None:
    found = networks(data)
    machines = {name: accelerator_cost(network, LANES) for name, network in found.items()}
    areas = {name: accelerator_area(machine.sizes, LANES) for name, machine in machines.items()}
    row("", *found)
    row("---", *["---"] * len(found))

    def line(text: str, values: list[float], form: str = "{:,.0f}") -> None:
        row(text, *(f"{form.format(v)} ({v / values[0]:.2f})" for v in values))

    row("operands of a multiplier, bits", *(f"{m.sizes['X']} x {m.sizes['W']}" for m in machines.values()))
    row("accumulator, bits", *(m.sizes["ACC"] for m in machines.values()))
    line("gate equivalents, array", [a.array_gates for a in areas.values()])
    line("gate equivalents, lanes", [a.lane_gates for a in areas.values()])
    line("gate equivalents, both", [a.array_gates + a.lane_gates for a in areas.values()])
    line("LUTs without DSPs, both", [a.array_logic + a.lane_logic for a in areas.values()])
    line("LUTs with DSPs, both", [a.array_luts + a.lane_luts for a in areas.values()])
    line("DSP48E2, sharing products", [m.dsps for m in machines.values()])
    line("DSP48E2, as Yosys infers", [a.dsps for a in areas.values()])
    line("flip-flops", [a.flip_flops for a in areas.values()])
    line("weights, KiB", [cost(n).weight_bits / 8192 for n in found.values()])
    line("narrow memory, KiB", [m.memories["narrow"] / 8192 for m in machines.values()])
    line("wide memory, KiB", [m.memories["wide"] / 8192 for m in machines.values()])
    line("weight buffer, KiB", [m.memories["weight buffer"] / 8192 for m in machines.values()])
    line("clocks a frame", [m.clocks for m in machines.values()])
    row("multipliers busy", *(f"{100 * m.busy:.0f} %" for m in machines.values()))
    for part in next(iter(machines.values())).energy:
        line(f"energy a frame, uJ: {part}", [m.energy[part] / 1e6 for m in machines.values()], "{:,.1f}")
    line("energy a frame, uJ", [sum(m.energy.values()) / 1e6 for m in machines.values()], "{:,.1f}")
    if plots is None:
        return
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    names = list(found)
    chip = ("narrow", "wide", "weight buffer")
    memory = {
        "weights": [cost(n).weight_bits / 8192 for n in found.values()],
        "on chip": [sum(m.memories[k] for k in chip) / 8192 for m in machines.values()],
    }
    gates = {
        "array": [a.array_gates for a in areas.values()],
        "lanes": [a.lane_gates for a in areas.values()],
    }
    energy = {
        part: [m.energy[part] / 1e6 for m in machines.values()]
        for part in next(iter(machines.values())).energy
    }
    titled = {"gate equivalents": gates, "memory, KiB": memory, "energy a frame, uJ": energy}
    for axis, (title, parts) in zip(axes, titled.items(), strict=True):
        bottom = [0.0] * len(names)
        for part, values in parts.items():
            axis.bar(names, values, bottom=bottom, label=part)
            bottom = [b + v for b, v in zip(bottom, values, strict=True)]
        axis.set_title(title)
        axis.legend(fontsize=7)
        axis.tick_params(axis="x", labelsize=8)
    plt.rcParams["svg.hashsalt"] = "radixpoint"
    figure.savefig(plots / "hardware-designs.svg", metadata={"Date": None})


def verify(data: Path) -> None:
    classes = radixpoint.read_classes(data / "wnids.txt")
    image = radixpoint.load_images(data / "images-search.tar", classes=classes).inputs(0, 1)
    row("design", "integers compared", "differing", "clocks", "export, s", "build and run, s")
    row(*["---"] * 6)
    for name, network in networks(data).items():
        with tempfile.TemporaryDirectory() as folder:
            started = time.time()
            export_network(network, "verilog", Path(folder) / "x", quantize_images(network, image))
            exported = time.time()
            result = verify_export(Path(folder) / "x")
            done = time.time()
        compared = sum(layer.values for layer in result.layers)
        differ = "none" if result.mismatch is None else str(result.mismatch)
        clocks = accelerator_cost(network, LANES).clocks
        row(
            name,
            f"{compared:,}",
            differ,
            f"{clocks:,}",
            f"{exported - started:.1f}",
            f"{done - exported:.1f}",
        )


def modules(plots: Path | None) -> None:
    names = list(synthesis.module_table(4))
    row("bits", *(f"{n}: gate equivalents, LUTs, DSPs" for n in names), "products a DSP48E2")
    row(*["---"] * (len(names) + 2))
    gates: dict[str, list[float]] = {name: [] for name in names}
    for word in WORDS:
        cells = []
        for name, part in synthesis.module_table(word).items():
            area = synthesis.synthesize(*part, "gates").gate_equivalents
            gates[name].append(area)
            dsp = synthesis.synthesize(*part, "dsp")
            cells.append(f"{area:,.0f}, {synthesis.synthesize(*part, 'lut').luts:,}, {dsp.dsps}")
        row(word, *cells, products_per_dsp(word, word))
    if plots is None:
        return
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name, values in gates.items():
        axes[0].plot(WORDS, values, marker="o", label=name)
    axes[0].set(title="gate equivalents", xlabel="word length", ylim=0)
    axes[0].legend()
    axes[1].step(WORDS, [float(1 / products_per_dsp(w, w)) for w in WORDS], where="mid", label="any weights")
    symmetric = [float(1 / products_per_dsp(w, w, symmetric=True)) for w in WORDS]
    axes[1].step(WORDS, symmetric, where="mid", linestyle="--", label="symmetric weights")
    axes[1].set(title="DSP48E2 a product", xlabel="word length", ylim=0)
    axes[1].legend()
    plt.rcParams["svg.hashsalt"] = "radixpoint"
    figure.savefig(plots / "hardware-modules.svg", metadata={"Date": None})


def ship() -> None:
    parts = [part for word in WORDS for part in synthesis.module_table(word).values()]
    jobs = [(*part, flow) for part in parts for flow in synthesis.FLOWS]
    for x, w in combinations_with_replacement(OPERANDS, 2):
        part = synthesis.multiply_accumulate(x, w, x + w + synthesis.GUARD)
        jobs += [(*part, flow) for flow in ("gates", "lut") if (*part, flow) not in jobs]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: synthesis.synthesize_now(*job), jobs))
    keyed = {synthesis.result_key(*job): result for job, result in zip(jobs, results, strict=True)}
    out = Path(synthesis.__file__).parent / "rtl" / "synthesis.json"
    out.write_bytes(msgspec.json.format(msgspec.json.encode(keyed, order="sorted"), indent=1) + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["designs", "verify", "modules", "ship"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--plots", type=Path)
    given = parser.parse_args()
    match given.what:
        case "designs":
            designs(given.data, given.plots)
        case "verify":
            verify(given.data)
        case "modules":
            modules(given.plots)
        case _:
            ship()


if __name__ == "__main__":
    main()
