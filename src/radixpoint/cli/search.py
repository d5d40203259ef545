"""``radixpoint search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import UNSET
from rich.table import Table

from radixpoint.accelerator.target import HardwareTarget
from radixpoint.arithmetic.formats import MAX_STORED
from radixpoint.arithmetic.formats import Overflow as OverflowModes
from radixpoint.arithmetic.formats import Rounding as RoundingModes
from radixpoint.cli import options
from radixpoint.cli.inputs import criterion, engine_of, held_out_count, read_images, read_model, read_ranges
from radixpoint.cli.run_file import keep
from radixpoint.cli.terminal import bars, emit, errors, note_the_engine, out, say
from radixpoint.data import ImageSet
from radixpoint.errors import DesignError
from radixpoint.ir.graph import Graph
from radixpoint.measure.metrics import find_metric
from radixpoint.quantization.design import Design
from radixpoint.report.page import write_report
from radixpoint.report.progress import Bars
from radixpoint.report.words import number
from radixpoint.searching import task
from radixpoint.searching.allocate import Constraints, Objective
from radixpoint.searching.executor_names import make_executor
from radixpoint.searching.policies import POLICIES
from radixpoint.searching.result import PolicyResult, Result


def _word_lengths(text: str) -> list[int]:
    try:
        if ":" not in text:
            given = sorted({int(part) for part in text.split(",")})
            if given[0] >= 2 and given[-1] <= MAX_STORED:
                return given
        else:
            low, high = (int(part) for part in text.split(":"))
            if 2 <= low <= high <= MAX_STORED:
                return list(range(low, high + 1))
    except ValueError:
        pass
    raise DesignError(
        f"--word-lengths {text!r}: expected smallest:largest within 2..{MAX_STORED}, such as 2:16, or a list "
        "such as 4,6,8"
    )


def _fixed(fix: list[str]) -> dict[str, int]:
    fixed: dict[str, int] = {}
    for text in fix:
        name, equals, bits = text.rpartition("=")
        if not equals or not bits.isdecimal() or len(bits) > 2:
            raise DesignError(f"--fix {text!r}: expected LAYER=BITS, such as conv1=8")
        if fixed.setdefault(name, int(bits)) != int(bits):
            raise DesignError(
                f"--fix {text!r}: expected one word length, and {name} has {fixed[name]} already"
            )
    return fixed


def search(
    context: typer.Context,
    model: options.Model,
    images: options.Images,
    calibration: options.Calibration,
    out: options.RunFolder,
    limit: options.Limit = "1.0",
    metric: options.Metric = "top1",
    confidence: options.Confidence = None,
    policy: Annotated[
        list[str],
        typer.Option(
            "--policy",
            "-p",
            help="Repeatable. "
            + "; ".join(f"{name}: {policy.about}" for name, policy in POLICIES.items())
            + "; greedy: one bit off the layer that takes it best (Judd et al. 2015); per-layer: cheapest "
            "word length of each layer, by an integer program.",
        ),
    ] = ("joint", "separate"),  # type: ignore[assignment]  # a default that cannot change; typer makes a list of it
    held_out: Annotated[
        str | None,
        typer.Option(
            help="Images that take no part in the search, to report on: a path, or a number, "
            "which takes so many of --images away, drawn at random."
        ),
    ] = None,
    objective: Annotated[
        Objective,
        typer.Option(
            help="What per-layer makes small: multipliers (bit products), bops, energy, memory; gates, luts: "
            "area of the multipliers by synthesis."
        ),
    ] = "multipliers",
    fix: Annotated[
        list[str] | None,
        typer.Option(help="For per-layer, LAYER=BITS: this layer's word length; repeatable."),
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="For per-layer: bits that all parameters together may take, biases and batch "
            "normalization's at --bn-start.",
        ),
    ] = None,
    one_width: Annotated[
        bool, typer.Option(help="For per-layer: one word length for all layers that are not fixed.")
    ] = False,
    equal: Annotated[
        bool, typer.Option(help="For per-layer: weights and activations of a layer at one word length.")
    ] = False,
    batch_norm: options.BatchNorm = "affine",
    scope: options.Scope = "tensor",
    rule: options.Rule = None,
    rounding: options.Rounding = RoundingModes.RND,
    overflow: options.OverflowMode = OverflowModes.SAT,
    unsigned: options.Unsigned = False,
    refine: options.Refine = "",
    equalize: Annotated[
        bool,
        typer.Option(
            help="First move powers of two between the channels of a layer and of the next one behind its "
            "ReLU; the float network computes the same."
        ),
    ] = False,
    target: options.Target = None,
    ram: Annotated[
        float | None,
        typer.Option(help="KiB that the exported C may take for what changes: buffers, input, results."),
    ] = None,
    flash: Annotated[
        float | None, typer.Option(help="KiB that the exported C may take for parameters.")
    ] = None,
    word_lengths: Annotated[
        str, typer.Option("--word-lengths", help="Candidates, smallest:largest, or a list: 4,6,8.")
    ] = "2:16",
    bn_start: Annotated[int, typer.Option(help="bn word length while conv's is searched.")] = 16,
    grid: Annotated[bool, typer.Option(help="Also evaluate every conv x bn pair on every image.")] = False,
    weights: options.Weights = None,
    input_shape: options.InputShape = None,
    classes: options.Classes = None,
    labels: options.Labels = None,
    store: options.Store = None,
    preprocessing: options.PreprocessingFile = None,
    max_images: options.MaxImages = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of finished evaluations, to share between searches.")
    ] = None,
    ranges: options.RangesFile = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let the result of another search in the run folder go.")
    ] = False,
    at_chance: Annotated[
        bool, typer.Option("--at-chance", help="Search even if the float network is no better than guessing.")
    ] = False,
    engine: options.EngineName = "auto",
    device: options.Device = None,
    threads: options.Threads = 0,
    executor: Annotated[
        str,
        typer.Option(
            help="Who evaluates: here; ray (this machine, or the cluster that RAY_ADDRESS names), "
            "ray:ADDRESS; "
            "folder: workers started by 'radixpoint worker RUN', on any machine that shares the run folder. "
            "Results are the same."
        ),
    ] = "here",
    report: Annotated[
        bool, typer.Option("--report", help="Write a page that shows what was found: OUT/report.html.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Find the smallest word lengths within a limit.

    The limit is on the drop in accuracy. What is found is in the run folder: a table, result.json, and the
    design and the quantized network of each policy.

    Instead of the model a file may be given, run.toml, with any of the options by name; each search leaves
    one in its folder.

    Example: radixpoint search resnet50.onnx --images val/ --calibration calib/ --limit 1.0 -o run
    """
    asked = criterion(metric, limit, confidence)
    lengths, fixed = _word_lengths(word_lengths), _fixed(fix or [])
    fields: dict[str, Any] = {
        "batch_norm": batch_norm,
        "binary_point": {"scope": scope} if rule is None else {"scope": scope, "rule": rule},
        "rounding": rounding,
        "overflow": overflow,
        "unsigned": unsigned,
        "equalize": equalize,
        "refine": options.techniques(refine),
    }
    Design.separate(lengths[-1], bn_start, **fields)  # what cannot be meant is refused before any work
    hardware = None if target is None else HardwareTarget.load(target)
    if ram is not None or flash is not None:
        hardware = (hardware or HardwareTarget(version=1, name="memory")).with_memory(ram, flash)
    if hardware is not None:
        fields = {name: value for name, value in fields.items() if _was_chosen(context, name)}
    runner = engine_of(engine, device, threads)
    make_executor(executor, out)
    image_set = read_images(images, classes, preprocessing, max_images, model, labels, store)
    calibration_set = read_images(calibration, classes, preprocessing, model=model, store=store)
    reported = None
    count = held_out_count(held_out)
    if count is not None:
        image_set, reported = image_set.parted(len(image_set) - count)
    elif held_out is not None:
        reported = read_images(held_out, classes, preprocessing, model=model, labels=labels, store=store)
    graph = read_model(model, weights, input_shape, image_set)
    run_search(
        graph,
        image_set,
        calibration_set,
        out,
        as_json,
        report,
        criterion=asked,
        policies=policy,
        word_lengths=lengths,
        bn_start=bn_start,
        grid=grid,
        cache=cache,
        engine=runner,
        threads=threads,
        held_out=reported,
        objective=objective,
        constraints=Constraints(fixed, memory, one_width, equal),
        ranges=read_ranges(ranges, graph, calibration_set),
        replaces=replace,
        at_chance=at_chance,
        executor=executor,
        target=hardware,
        asked=(dict(context.params), _defaults(context)),
        **fields,
    )


def _was_chosen(context: typer.Context, field: str) -> bool:
    """Whether the user chose this field of designs, so that the target must not."""
    names = ("scope", "rule") if field == "binary_point" else (field,)
    sources = [context.get_parameter_source(name) for name in names]
    return any(source is not None and source.name != "DEFAULT" for source in sources)


def _defaults(context: typer.Context) -> dict[str, Any]:
    return {parameter.name or "": parameter.default for parameter in context.command.params}


def run_search(
    graph: Graph,
    images: ImageSet,
    calibration: ImageSet,
    folder: Path,
    as_json: bool,
    reports: bool,
    asked: tuple[dict[str, Any], dict[str, Any]] | None = None,
    **arguments: Any,
) -> None:
    """Search with bars, and tell what came of it.

    Args:
        reports: whether the page is written.
        asked: the command's parameters and their defaults, to be kept.
    """
    if arguments.get("engine", "auto") == "auto":
        note_the_engine()
    try:
        with bars() as shown:
            unit = find_metric(arguments["criterion"].metric).unit
            result = task.search(graph, images, calibration, folder, watcher=Bars(unit, shown), **arguments)
    except KeyboardInterrupt:
        say(
            f"interrupted; what is known is in {folder}: the same command, with --out {folder}, goes on "
            "from there",
            errors,
        )
        raise
    if asked is not None:
        keep(folder, *asked)
    if result.held_out is None and result.criterion.confidence is None:
        say(
            "the designs were chosen on these images, so their drops are a little too good: --held-out "
            "reports on others, and --confidence allows for it",
            errors,
        )
    if as_json:
        emit(result)
    else:
        _report(result, folder, unit)
    if reports:
        say(f"{write_report(folder)}: the report; a browser opens it", errors)


def _words(name: str, policy: PolicyResult) -> str:
    if name == "joint":
        return f"all {policy.word_length}"
    if policy.average is not UNSET:
        mean = policy.average
        return f"weights {mean.weight:.2f}, operands {mean.operand:.2f}, bn {policy.bn}"
    return f"conv {policy.conv}, bn {policy.bn}"


def _report(result: Result, folder: Path, unit: str) -> None:
    """The table at the end of a search."""
    confidence, metric = result.criterion.confidence, result.criterion.metric
    ranked = result.floating.top1 is not UNSET
    floating = f"{metric} {result.floating.score:.4g}"
    if ranked:
        floating = f"top-1 {result.floating.top1:.2f} %, top-5 {result.floating.top5:.2f} %"
    say(f"float: {floating} on {result.images.count} images")
    table = Table(
        "policy",
        "word lengths, bits",
        "top-1, %" if ranked else metric,
        f"{metric} drop, {unit}".rstrip(", "),
        "95 % interval",
        *([] if confidence is None else [f"at most, {100 * confidence:g} % sure"]),
        "multipliers, relative to joint",
    )
    for name, policy in result.policies.items():
        if policy.drop is None or policy.drop_interval is None:
            what = "holds" if policy.tried or policy.ruled_out is UNSET else "runs on the target"
            table.add_row(name, f"none up to {result.word_lengths[-1]} {what}")
            continue
        low, high = policy.drop_interval
        relative = policy.relative_cost
        table.add_row(
            name,
            _words(name, policy),
            f"{policy.top1:.2f}" if ranked else f"{policy.score:.4g}",
            number(policy.drop, unit),
            f"{number(low, unit)} .. {number(high, unit)}",
            *([] if confidence is None else [f"{policy.drop_bound:+.2f}"]),
            f"{relative:.2f}" if isinstance(relative, float) else "",
        )
    out.print(table)
    apart = not any(both for kind, both in result.overlap.items() if kind.startswith("held_out"))
    for name, policy in result.policies.items():
        if policy.held_out is not None:
            low, high = policy.held_out.drop_interval
            say(
                f"{name}, held out: {number(policy.held_out.drop, unit)} "
                f"[{number(low, unit)}, {number(high, unit)}] on "
                f"{policy.held_out.images} images"
                + (" that took no part" if apart else ", some of which took part")
            )
    for name, policy in result.policies.items():
        if policy.adopted:
            say(f"{name}: its own path missed this design, which another policy's found")
        if policy.ruled_out is not UNSET:
            what, why = next(iter(policy.ruled_out.items()))
            count = len(policy.ruled_out)
            said = why.splitlines()
            more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
            say(f"{name}: the target rules out {count} design{'s' * (count > 1)}: {what}: {said[0]}{more}")
        if not policy.monotone:
            say(f"{name}: not monotone: a longer word length fails; see result.json")
    say(f"{folder}: result.json; design.json and network.safetensors of each policy that holds")
