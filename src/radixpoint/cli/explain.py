"""``radixpoint explain``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from radixpoint.cli import options, run_file
from radixpoint.cli.inputs import criterion, ranges_of, read_images, read_model, without_held_out
from radixpoint.cli.terminal import bars, emit, errors, out, say
from radixpoint.data import ImageSet
from radixpoint.errors import DesignError, RunError
from radixpoint.explaining.changes import FILE as ADVICE
from radixpoint.explaining.changes import Advice, Change, advise
from radixpoint.explaining.explain import FILE as EXPLANATION
from radixpoint.explaining.explain import IMAGES, Explanation, Part
from radixpoint.explaining.explain import explain as explained
from radixpoint.files import write_whole
from radixpoint.ir.storage import load_network, save_network
from radixpoint.measure.evaluate import check_origin
from radixpoint.measure.metrics import find_metric
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import Quantizer
from radixpoint.report import words
from radixpoint.searching.result import FILE as RESULT
from radixpoint.searching.result import Result

SHOWN = 8
"""Layers, and changes, in the tables on the terminal."""


@dataclass(frozen=True)
class _Subject:
    """What is explained: a design, of which network, where it lies, and what it was made of."""

    design: Design
    network: str | None
    folder: Path
    asked: dict[str, Any]


def _subject(path: Path, policy: str | None) -> _Subject:
    """Of a run folder its cheapest answer, or that of a policy; or a network's file.

    Raises:
        RunError, DesignError: it is neither, or says too little.
    """
    if path.is_dir():
        result = Result.load(path / RESULT) if (path / RESULT).is_file() else None
        if result is None:
            raise RunError(
                f"{path}: no {RESULT}: expected the folder of a search that has ended, or a network"
            )
        holding = words.holding(result)
        name = policy or next(iter(holding), None)
        if name is None or name not in holding:
            known = ", ".join(holding) or "none"
            raise RunError(f"{path}: no answer of policy {name}: those with one are: {known}")
        return _Subject(Design.load(path / name / "design.json"), result.network, path / name, _asked(path))
    if policy is not None:
        raise RunError(f"--policy {policy} with {path}: expected it with a run folder")
    network = load_network(path)
    design = Design.recorded(network)
    if design is None:
        raise DesignError(f"{path}: the network does not say which design it was made by")
    run = path.absolute().parent.parent
    folder = path.parent if (run / run_file.FILE).is_file() else path.with_suffix(".explained")
    return _Subject(design, network.metadata.get("network"), folder, _asked(run))


def _asked(run: Path) -> dict[str, Any]:
    path = run / run_file.FILE
    found = run_file.asked(path) if path.is_file() else {}
    if (run / "ranges.npz").is_file():
        found.setdefault("ranges", str(run / "ranges.npz"))
    return found


def explain(
    subject: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|NETWORK", help="Folder of a search that has ended, or a quantized network."
        ),
    ],
    policy: Annotated[
        str | None,
        typer.Option("--policy", "-p", help="Whose answer in RUN. Default: the cheapest that holds."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="The trained network. Default: what RUN/run.toml says, as for all below."
        ),
    ] = None,
    images: Annotated[str | None, typer.Option("--images", "-i", help=options.IMAGES_HELP)] = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", "-c", help="Images to choose binary points from, likewise.")
    ] = None,
    weights: options.Weights = None,
    input_shape: options.InputShape = None,
    classes: options.Classes = None,
    preprocessing: options.PreprocessingFile = None,
    labels: options.Labels = None,
    ranges: options.RangesFile = None,
    metric: Annotated[str | None, typer.Option(help="What accuracy means.")] = None,
    limit: Annotated[str | None, typer.Option("--limit", "-l", help="Largest drop that is allowed.")] = None,
    looked_at: Annotated[
        int, typer.Option("--look-at", min=16, help="Images on which every layer is tried alone.")
    ] = IMAGES,
    max_images: Annotated[
        int, typer.Option(min=50, help="Images on which changes are judged; the best, on all.")
    ] = 2000,
    changes: Annotated[bool, typer.Option(help="Try changes, and tell what to do next.")] = True,
    apply: Annotated[
        Path | None, typer.Option("--apply", help="Folder for the design and the network of the best change.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Tell which layers cost the accuracy, and what to change.

    Each layer is quantized alone, and freed alone, and what is lost is measured. Then changes are tried: bits
    for the worst places, rules, scopes, refinement. Every figure is of a network that was run.

    Example: radixpoint explain run --apply better
    """
    chosen = _subject(subject, policy)
    given = {
        "model": model, "images": images, "calibration": calibration, "weights": weights, "ranges": ranges,
        "input_shape": input_shape, "classes": classes, "preprocessing": preprocessing, "labels": labels,
        "metric": metric, "limit": limit,
    }  # fmt: skip
    asked = {**chosen.asked, **{name: value for name, value in given.items() if value is not None}}
    missing = [name for name in ("model", "images", "calibration") if name not in asked]
    if missing:
        raise DesignError(
            f"{subject}: no {run_file.FILE} says what it was made of: expected --{', --'.join(missing)}"
        )
    judged = criterion(asked.get("metric", "top1"), str(asked.get("limit", "1.0")))
    by = find_metric(judged.metric)
    quantizer, judged_on = _read(asked)
    if chosen.network is not None:
        check_origin(quantizer.graph, chosen.network)
    with bars() as shown:
        found = explained(
            quantizer, chosen.design, judged_on.first(looked_at), by, progress=_told(shown, "each layer")
        )
        write_whole(_made(chosen.folder) / EXPLANATION, found.encoded())
        advice = None
        if changes:
            told = _told(shown, "changes")
            advice = advise(quantizer, chosen.design, found, judged_on, by, judged, told, max_images)
            _keep(chosen.folder, advice)
    if apply is not None and advice is not None and advice.best is not None:
        _apply(apply, quantizer, advice.change(advice.best))
    if as_json:
        emit({"explanation": found, "advice": advice})
        return
    _show(found, by.unit)
    if advice is not None:
        _advise(advice, by.unit, chosen.folder, apply)


def _read(asked: dict[str, Any]) -> tuple[Quantizer, ImageSet]:
    """The network with what was measured of it, and the images to judge on."""
    how = (asked.get("classes"), asked.get("preprocessing"))
    model, store = asked["model"], asked.get("store")
    everything = read_images(
        asked["images"], *how, asked.get("max_images"), model, asked.get("labels"), store
    )
    judged_on = without_held_out(everything, asked.get("held_out"))
    sample = read_images(asked["calibration"], *how, model=model, store=store)
    graph = read_model(model, asked.get("weights"), asked.get("input_shape"), judged_on)
    return Quantizer(graph, ranges_of(asked.get("ranges"), graph, sample), sample), judged_on


def _told(shown: Progress, what: str) -> Any:
    task = shown.add_task(what, total=None)

    def told(name: str, done: int, total: int) -> None:
        shown.update(task, completed=done, total=total, description=f"{what}: {name}")

    return told


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error.strerror}") from None
    return folder


def _file(number: int, change: Change) -> str:
    """Name of a change's design file."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in change.name)
    return f"{number:02d}-{plain[:60]}.json"


def _keep(folder: Path, advice: Advice) -> None:
    """Write what was tried, and each design as a file of its own."""
    write_whole(folder / ADVICE, advice.encoded())
    place = _made(folder / "changes")
    for old in place.glob("[0-9][0-9]-*.json"):
        old.unlink()
    for number, change in enumerate(advice.changes, 1):
        write_whole(place / _file(number, change), change.design.encode())


def _apply(folder: Path, quantizer: Quantizer, change: Change) -> None:
    network = quantizer.quantize(msgspec.json.decode(change.design, type=Design))
    write_whole(_made(folder) / "design.json", change.design.encode())
    save_network(network, folder / "network.safetensors")


def _percent(value: float) -> str:
    return f"{value:.1f}"


def _lost(unit: str, part: Part) -> tuple[str, ...]:
    """Cells of a part: its share, what is lost when it alone is quantized, and when it alone is freed."""
    return (
        _percent(part.share),
        words.number(part.alone.drop, unit),
        "" if part.alone.agreement is None else _percent(part.alone.agreement),
        words.number(part.without.drop, unit),
    )


def _named(*columns: str) -> Table:
    """A table whose first column is never cut off."""
    table = Table()
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column)
    return table


def _show(found: Explanation, unit: str) -> None:
    """The ranking, and the places of the worst layers."""
    whole = found.whole
    agree = "" if whole.agreement is None else f", same best class on {whole.agreement:.1f} %"
    say(
        f"on {found.images} images the design loses {words.drop(whole.drop, unit)} of {found.metric}{agree}; "
        f"with every layer freed {words.drop(found.free.drop, unit)}"
    )
    table = _named("layer", "share, %", "drop, alone quantized", "same class, %", "drop, alone freed")
    for part in found.layers[:SHOWN]:
        table.add_row(escape(part.layer), *_lost(unit, part))
    out.print(table)
    rest = sum(part.share for part in found.layers[SHOWN:])
    say(
        f"the other {max(len(found.layers) - SHOWN, 0)} layers together: {rest:.1f} %; the losses of all add "
        f"up to {100 - found.left_over:.0f} % of the design's ({found.left_over:+.0f} % is left over)"
    )
    say("of the loss is gone, in percent, if only one thing about one place is changed:")
    table = _named("place", "format", "saturates never", "rounds finer", "point a channel")
    for part in found.places:
        if part.share >= 1:
            more = (part.unsaturated, part.unrounded, part.by_channel)
            cells = ("" if lost is None or not whole.loss else _gone(lost.loss, whole.loss) for lost in more)
            table.add_row(escape(f"{part.layer} {part.role}"), part.format, *cells)
    out.print(table)


def _gone(loss: float, whole: float) -> str:
    return _percent(100 * (whole - loss) / whole)


def _advise(advice: Advice, unit: str, folder: Path, applied: Path | None) -> None:
    """What was tried, and what to do."""
    table = Table("change", "drop", "better by", "95 % interval", "multipliers", "memory")
    for change in (advice.now, *advice.changes[:SHOWN]):
        table.add_row(
            escape(change.name),
            words.number(change.drop, unit),
            words.number(change.gain, unit),
            words.interval(change.gain_interval, unit),
            f"{change.multiplier_cost:.3f}",
            f"{change.memory:.3f}",
        )
    out.print(table)
    say(f"{len(advice.changes)} changes were tried on {advice.images} images, none is guessed")
    if advice.best is None:
        holds = advice.now.holds(advice.limit)
        say("the design holds, and nothing cheaper does" if holds else "nothing that was tried is better")
        return
    number = 1 + [change.name for change in advice.changes].index(advice.best)
    best = advice.changes[number - 1]
    limit = words.amount(f"{advice.limit:g}", unit)
    say(f"best: {best.name}: drop {words.drop(best.drop, unit)}, limit {limit}")
    for held in advice.confirmed:
        interval = words.interval(held.drop_interval, unit)
        say(f"on all {held.images} images: {words.drop(held.drop, unit)} {interval}: {held.name}")
    place = folder / "changes" / _file(number, best)
    if applied is None:
        say(
            f"{place}: its design; 'radixpoint quantize MODEL --calibration ... --design {place}' makes the "
            "network"
        )
    else:
        say(f"{applied}: its design.json and network.safetensors")
    if not advice.confirmed:
        flattered = "the images that choose a change flatter it: judge it on others ('radixpoint evaluate')"
        say(flattered, errors)
