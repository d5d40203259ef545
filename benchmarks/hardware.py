"""The figures of ``docs/hardware.md``: three designs of a full-width ResNet-50 in hardware.

    python benchmarks/hardware.py designs --data DATA [--plots docs]
    python benchmarks/hardware.py verify  --data DATA
    python benchmarks/hardware.py sharing --data DATA
    python benchmarks/hardware.py bus     --data DATA
    python benchmarks/hardware.py fpga
    python benchmarks/hardware.py modules [--plots docs]
    python benchmarks/hardware.py ship

DATA holds ``resnet50-tiny-imagenet.safetensors``, ``images-search.tar``, ``images-calibration.tar`` and
``wnids.txt``; images have 64 x 64 pixels. ``designs`` prints the cost of each design, ``verify`` runs each in
Verilog on one image, ``sharing`` prints what it saves that a weight serves several places and images, ``bus``
runs the last design behind a bus, ``fpga`` synthesizes, places and routes the embedded network with its bus
at several word lengths, ``modules`` prints the synthesis of each module at each word length,
``ship`` writes the results of synthesis that the package holds (after a change of a module). Plots need
matplotlib.
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
from radixpoint.accelerator.fpga import FAMILIES, fpga
from radixpoint.accelerator.hardware import accelerator_area, accelerator_cost
from radixpoint.accelerator.machine import Machine
from radixpoint.accelerator.program import Program
from radixpoint.demo import demo_images, demo_network
from radixpoint.engines import quantize_images
from radixpoint.export import TARGETS, export_network, verify_export
from radixpoint.export.verilog import VerilatedTestbench
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


def sharing(data: Path) -> None:
    """Energy an image of the last design, by places and images that share a weight."""
    network = networks(data)["best 6 / 10"]
    found = [
        accelerator_cost(network, LANES, *shared)
        for shared in ((1, 1), (4, 1), (8, 1), (4, 2), (8, 2), (4, 4), (8, 4))
    ]
    first = sum(found[0].energy.values())
    row("places, images", *(f"{m.places}, {m.batch}" for m in found))
    row("---", *["---"] * len(found))
    for part in found[0].energy:
        row(f"{part}, uJ", *(f"{m.energy[part] / 1e6:,.1f}" for m in found))
    totals = [sum(m.energy.values()) for m in found]
    row("an image, uJ", *(f"{total / 1e6:,.1f} ({total / first:.2f})" for total in totals))
    row("clocks an image", *(f"{m.clocks / m.batch:,.0f}" for m in found))
    row("multipliers busy", *(f"{100 * m.busy:.1f} %" for m in found))
    chip = ("narrow", "wide")
    row("activations on chip, KiB", *(f"{sum(m.memories[k] for k in chip) / 8192:,.0f}" for m in found))
    areas = {places: accelerator_area(found[0].sizes, LANES, places) for places in {m.places for m in found}}
    gates = {places: area.array_gates + area.lane_gates for places, area in areas.items()}
    row("gate equivalents, array and lanes", *(f"{gates[m.places]:,.0f}" for m in found))


def bus(data: Path) -> None:
    """The last design with its program in a memory that pauses in a quarter of the clocks: every tensor."""
    classes = radixpoint.read_classes(data / "wnids.txt")
    image = radixpoint.load_images(data / "images-search.tar", classes=classes).inputs(0, 1)
    network = networks(data)["best 6 / 10"]
    images = quantize_images(network, image)
    row(
        "bits of a beat",
        "integers compared",
        "differing",
        "clocks an image",
        "multipliers busy",
        "program, MiB",
    )
    row(*["---"] * 6)
    for bits in (64, 128, 256):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "x"
            export_network(network, "axi", out, images, {"bus": str(bits)})
            result = verify_export(out)
            (run,) = TARGETS["axi"].open(out, network, Path(folder)).values()
            assert isinstance(run, VerilatedTestbench)
            run.run(images)
            size = (out / "program.bin").stat().st_size / 2**20
        compared = sum(layer.values for layer in result.layers)
        differ = "none" if result.mismatch is None else str(result.mismatch)
        busy = cost(network).macs / (LANES**2 * run.clocks)
        row(bits, f"{compared:,}", differ, f"{run.clocks:,}", f"{100 * busy:.0f} %", f"{size:.1f}")


CHIPS = ((16, 16), (10, 13), (8, 12), (6, 10))
"""Word lengths of the embedded network on an FPGA."""


def chips() -> None:
    """The embedded network's accelerator of 4 x 4 multipliers, on two families."""
    graph = demo_network()
    ranges = radixpoint.calibrate(graph, demo_images("calibration"))
    cells = (f"{f.name}: LUTs, flip-flops, multipliers, memories" for f in FAMILIES.values())
    row("word lengths", *cells, "MHz", "ms an image")
    row(*["---"] * (len(FAMILIES) + 3))
    for conv, bn in CHIPS:
        network = radixpoint.quantize(graph, ranges, Design.separate(conv=conv, bn=bn))
        machine = Machine(network, 4)
        found = {name: fpga(Program(machine, 64), name) for name in FAMILIES}
        clock = found["ecp5"].megahertz
        assert clock is not None
        row(
            f"{conv} / {bn}",
            *(f"{f.luts:,}, {f.flip_flops:,}, {f.multipliers}, {f.memories}" for f in found.values()),
            f"{clock:.1f}",
            f"{machine.clocks() / clock / 1e3:.1f}",
        )
    print(", ".join(sorted({tool for f in found.values() for tool in f.tools})))


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
    parser.add_argument("what", choices=["designs", "verify", "sharing", "bus", "fpga", "modules", "ship"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--plots", type=Path)
    given = parser.parse_args()
    match given.what:
        case "designs":
            designs(given.data, given.plots)
        case "verify":
            verify(given.data)
        case "sharing":
            sharing(given.data)
        case "bus":
            bus(given.data)
        case "fpga":
            chips()
        case "modules":
            modules(given.plots)
        case _:
            ship()


if __name__ == "__main__":
    main()
