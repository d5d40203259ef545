"""``radixpoint target``."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from radixpoint.accelerator.target import HardwareTarget, named_targets, target_text
from radixpoint.cli.options import AsJson
from radixpoint.cli.terminal import emit, out, say
from radixpoint.ir.storage import load_network


def target(
    which: Annotated[
        str | None, typer.Argument(help="A target file, or a name. Default: the names are listed.")
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(
            help="A quantized network: say what of it would not fit, with exit status 1 if anything."
        ),
    ] = None,
    as_toml: Annotated[
        bool, typer.Option("--toml", help="The target's file, to begin your own from.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What a piece of hardware can run.

    Lists the targets inside the package, shows one, or holds a quantized network against one.

    Example: radixpoint target mine.toml --check run/separate/network.safetensors
    """
    if as_toml:
        if which is None or check is not None or as_json:
            raise typer.BadParameter("--toml: expected a target, and neither --check nor --json")
        typer.echo(target_text(which), nl=False)
        return
    if which is None:
        if check is not None:
            raise typer.BadParameter("--check: expected a target before it")
        _list(as_json)
        return
    hardware = HardwareTarget.load(which)
    if check is None:
        emit(hardware) if as_json else _show(hardware)
        return
    problems = hardware.problems(load_network(check))
    if as_json:
        emit({"target": hardware.name, "fits": not problems, "problems": problems})
    else:
        for problem in problems:
            say(str(problem))
        said = "fits" if not problems else f"{len(problems)} rule{'s' * (len(problems) > 1)} broken"
        say(f"{check}: {hardware.name}: {said}")
    if problems:
        raise typer.Exit(1)


def _list(as_json: bool) -> None:
    known = [HardwareTarget.load(name) for name in named_targets()]
    if as_json:
        emit([{"name": named.name, "about": named.about} for named in known])
        return
    table = Table("target", "what it is")
    for named in known:
        table.add_row(escape(named.name), escape(named.about))
    out.print(table)


def _show(hardware: HardwareTarget) -> None:
    say(f"{hardware.name}: {hardware.about}")
    table = Table("rule", "what there is", "where the figure comes from")
    for name, limits in msgspec.to_builtins(hardware).items():
        for key, value in limits.items() if isinstance(limits, dict) and name != "sources" else ():
            rule = f"{name}.{key}"
            table.add_row(rule, escape(_text(value)), escape(hardware.sources.get(rule, "")))
    out.print(table)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
