"""``radixpoint inspect``."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from radixpoint.cli.inputs import parsed_shape
from radixpoint.cli.options import MODEL_HELP, AsJson, InputShape, Weights
from radixpoint.cli.terminal import emit, out, say
from radixpoint.engines import ENGINES, chosen_instruction_set, instruction_sets, usable_engines
from radixpoint.errors import ModelError, UnsupportedError
from radixpoint.importers import load
from radixpoint.ir.graph import Graph


def inspect(
    model: Annotated[str | None, typer.Argument(help=MODEL_HELP)] = None,
    weights: Weights = None,
    input_shape: InputShape = None,
    engines: Annotated[
        bool,
        typer.Option(
            "--engines",
            help="List engines and instruction sets; RADIXPOINT_ISA in the environment forces one.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what a model holds, or what in it is not supported."""
    if engines:
        _engines(as_json)
        return
    if model is None:
        raise ModelError("no model: expected a file, or --engines")
    try:
        graph = load(model, parsed_shape(input_shape), weights)
    except UnsupportedError as error:
        if as_json:
            emit({"supported": False, "unsupported": [list(o) for o in error.operators]})
            raise typer.Exit(2) from None
        raise
    if as_json:
        _as_json(graph)
    else:
        _as_table(graph)


def _engines(as_json: bool) -> None:
    """What can run a quantized network here."""
    sets = instruction_sets()
    chosen = chosen_instruction_set() if sets else None
    if as_json:
        emit({"engines": usable_engines(), "instruction_sets": sets, "chosen": chosen})
        return
    table = Table("engine", "instruction set", "on this machine")
    for name in ENGINES:
        if name != "native":
            here = name in usable_engines()
            table.add_row(name, "", "yes" if here else f"not installed: pip install 'radixpoint[{name}]'")
            continue
        if not sets:
            table.add_row(name, "", "not installed: no working C++ compiler when it was")
        for isa, usable_here in sets.items():
            table.add_row(name, isa, "chosen" if isa == chosen else "yes" if usable_here else "no")
    out.print(table)


def _as_json(graph: Graph) -> None:
    emit(
        {
            "supported": True,
            "input": list(graph.shapes[graph.input]),
            "outputs": {name: list(graph.shapes[name]) for name in graph.outputs},
            "notes": list(graph.notes),
            "operators": Counter(layer.op for layer in graph.layers),
            "parameters": sum(value.size for value in graph.parameters.values()),
            "layers": [
                {"name": x.name, "op": x.op, "inputs": list(x.inputs), "shape": list(graph.shapes[x.name])}
                for x in graph.layers
            ],
        }
    )


def _as_table(graph: Graph) -> None:
    table = Table("layer", "operator", "result (channels, height, width)", "parameters")
    for layer in graph.layers:
        own = sum(graph.parameter(layer, role).size for role in layer.parameters)
        table.add_row(escape(layer.name), layer.op, str(graph.shapes[layer.name]), f"{own:,}" if own else "")
    out.print(table)
    counts = Counter(layer.op for layer in graph.layers)
    parameters = sum(value.size for value in graph.parameters.values())
    results = ", ".join(str(graph.shapes[name]) for name in graph.outputs)
    say(
        f"{graph.shapes[graph.input]} in, {results} out, {parameters:,} parameters; "
        + ", ".join(f"{count} {op}" for op, count in sorted(counts.items()))
    )
    for note in graph.notes:
        say(note)
    if graph.nothing_to_separate:
        say(
            "No batch normalization: if the network was trained with it, the exporter folded it into the "
            "convolutions, and separate representations have nothing to separate. See 'search --help'."
        )
