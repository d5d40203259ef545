"""The command line: inspect, calibrate, search, quantize, evaluate, export, verify, cost, demo."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from radixpoint.accelerator.cost import Cost, cost
from radixpoint.accelerator.hardware import AcceleratorCost, Area, accelerator_area, accelerator_cost
from radixpoint.accelerator.machine import LANES
from radixpoint.accelerator.synthesis import module_table, synthesize
from radixpoint.arithmetic.formats import MAX_STORED, Overflow
from radixpoint.arithmetic.formats import Rounding as RoundingMode
from radixpoint.data import ImageSet, Preprocessing, load_images, read_classes
from radixpoint.demo import demo_images, demo_network
from radixpoint.engines import (
    ENGINES,
    check_engine,
    chosen_instruction_set,
    instruction_sets,
    quantize_images,
)
from radixpoint.errors import DataError, DesignError, ModelError, RadixpointError, RunError, UnsupportedError
from radixpoint.export import TARGETS, TIME_LIMIT, Verification, export_network, target_named, verify_export
from radixpoint.export.folder import check_replaceable
from radixpoint.files import shown
from radixpoint.importers import load
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph
from radixpoint.ir.storage import load_network, save_network
from radixpoint.measure.calibrate import Ranges, calibrate
from radixpoint.measure.evaluate import Evaluation, evaluate, layer_sqnr
from radixpoint.measure.metrics import check_metric
from radixpoint.quantization.design import BatchNorm as BatchNormForm
from radixpoint.quantization.design import Codes, Design
from radixpoint.quantization.design import Rule as BinaryPointRule
from radixpoint.quantization.design import Scope as BinaryPointScope
from radixpoint.quantization.quantize import quantize
from radixpoint.quantization.refine import TECHNIQUES
from radixpoint.searching.allocate import Constraints, Objective
from radixpoint.searching.criterion import Criterion, Verdict
from radixpoint.searching.policies import POLICIES
from radixpoint.searching.search import search
from radixpoint.searching.watcher import Watcher

app = typer.Typer(
    help="Find the smallest fixed-point representation of a trained CNN.\n\n"
    "Start with 'radixpoint demo': the whole job on a network inside the package. Then 'radixpoint inspect "
    "MODEL' tells whether your network can be read, and 'radixpoint search' finds its word lengths.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
SECONDS_A_LINE = 10.0
_errors = Console(stderr=True)
_out = Console()

MODEL_HELP = (
    "The trained network: an ONNX model (.onnx), or the weights of a torchvision ResNet "
    "(.safetensors, .pt). Batch normalization must not be folded into the convolutions; with torch.onnx."
    "export use dynamo=True, optimize=False, or dynamo=False, training=TrainingMode.PRESERVE."
)
Model = Annotated[str, typer.Argument(help=MODEL_HELP)]
InputShape = Annotated[
    str | None,
    typer.Option(
        help="Channels,height,width of one image, such as 3,224,224; needed where the model does not say. "
        "Default: the shape of the images."
    ),
]
Images = Annotated[
    str,
    typer.Option(
        help="Images to judge accuracy on: a folder per class, a tar of that, an .npz, a .txt list."
    ),
]
Calibration = Annotated[
    str, typer.Option(help="Images to choose binary points from, likewise; keep them apart from --images.")
]
Classes = Annotated[
    str | None,
    typer.Option(help="File of class folders in the order of the network's outputs. Default: sorted."),
]
PreprocessingFile = Annotated[
    str | None,
    typer.Option(
        help="JSON with torchvision's names: resize_size, crop_size, mean, std, interpolation; and "
        "channel_order, rescale. Default: ImageNet's mean and std, size as stored."
    ),
]
BatchNorm = Annotated[
    str, typer.Option(help="Form of batch normalization: affine (y = s*x + t), staged (Caffe's), folded.")
]
Scope = Annotated[str, typer.Option(help="Who shares a binary point: network, class, tensor, channel.")]
Rule = Annotated[
    str,
    typer.Option(
        help="How a binary point is chosen: max, percentile, mse; sqnr (least error of each layer's output); "
        "or loss (answers nearest to float's), the default for the scopes network and class; tensor and "
        "channel default to max."
    ),
]
Unsigned = Annotated[
    bool,
    typer.Option("--unsigned", help="No sign bit in operands that a ReLU keeps from being negative."),
]
Refine = Annotated[
    str,
    typer.Option(
        help="Improve stored integers on the calibration images, without labels: offsets (correct means), "
        "columns (round weights by second moments), units (move weights one by one); joined by +."
    ),
]
Rounding = Annotated[
    str,
    typer.Option(help="Of casts: TRN, TRN_ZERO, RND, RND_MIN_INF, RND_INF, RND_ZERO, RND_CONV, STOCHASTIC."),
]
OverflowMode = Annotated[str, typer.Option("--overflow", help="Of casts: SAT, SAT_SYM, WRAP.")]
Metric = Annotated[str, typer.Option(help="What must not drop: top1 or top5.")]
Confidence = Annotated[
    float | None,
    typer.Option(
        help="Such as 0.95: what is said holds, with at least this probability, on images that nobody looked "
        "at, and not only on --images."
    ),
]
RangesFile = Annotated[
    str | None,
    typer.Option(
        help="What was measured of the float network: from 'calibrate', or ranges.npz of a run folder. From "
        "the same file every machine gets the same result. Default: measured here."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
MaxImages = Annotated[
    int | None, typer.Option(help="Use a fixed random choice of so many images, for a quick look.")
]

Threads = Annotated[int, typer.Option(help="Threads of the engine; 0 takes all cores. Results are the same.")]


class _Bars(Watcher):
    """Shows a search on the terminal: the current evaluation, and the estimated time left for all."""

    def __init__(self, progress: Progress) -> None:
        self.bars = progress
        self.whole = progress.add_task("all, at most", total=None)
        self.task = progress.add_task("", total=None)
        self.done = self.before = 0

    def stage(self, text: str, images: int, images_left: int) -> None:
        self.before = self.done
        self.bars.reset(self.task, description=text, total=images)
        if images_left:
            self.bars.update(self.whole, total=self.done + images + images_left)

    def progress(self, images: int) -> None:
        self.bars.update(self.task, completed=images)
        self.done = self.before + images
        self.bars.update(self.whole, completed=self.done)

    def judged(self, text: str, evaluation: Evaluation, verdict: Verdict, cached: bool) -> None:
        low, high = evaluation.drop_interval
        self.bars.console.print(
            f"{text}: {evaluation.metric} drop {evaluation.drop:+.2f} points "
            f"[{low:+.2f}, {high:+.2f}] on {evaluation.images} images: {verdict}"
            + (" (known)" if cached else ""),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def warned(self, text: str) -> None:
        self.bars.console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Lines(Progress):
    """Progress where output is no terminal: a line when a stage begins and every ten seconds."""

    def __init__(self) -> None:
        super().__init__(console=_errors, disable=True)
        self._said = time.monotonic()

    def update(self, task_id: TaskID, **fields: Any) -> None:
        super().update(task_id, **fields)
        if time.monotonic() - self._said > SECONDS_A_LINE:
            self._say(task_id)

    def reset(self, task_id: TaskID, **fields: Any) -> None:
        super().reset(task_id, **fields)
        self._say(task_id)

    def _say(self, task_id: TaskID) -> None:
        task = self._tasks[task_id]
        if not task.description:
            return
        self._said = time.monotonic()
        of = "" if task.total is None else f" of {task.total:,.0f}"
        _errors.print(
            f"{task.description}: {task.completed:,.0f}{of}", markup=False, highlight=False, soft_wrap=True
        )


def _progress() -> Progress:
    if not _errors.is_terminal:
        return _Lines()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=_errors,
        transient=True,
    )


def _shape(text: str | None, images: ImageSet | None = None) -> tuple[int, ...] | None:
    if text is None:
        return None if images is None else images.pixels.shape[1:]
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ModelError(f"--input-shape {text!r}: expected numbers such as 3,224,224") from None


def _load(model: str, input_shape: str | None, images: ImageSet) -> Graph:
    """The network; images settle what neither the model nor the user says."""
    asked = _shape(input_shape)
    if asked is None and Path(model).suffix.lower() == ".onnx":
        try:
            return load(model)
        except ModelError as error:
            if "dynamic" not in str(error):
                raise
    return load(model, asked or _shape(None, images))


def _images(path: str, classes: str | None, preprocessing: str | None, limit: int | None = None) -> ImageSet:
    prepared = None if preprocessing is None else Preprocessing.load(preprocessing)
    names = None if classes is None else read_classes(classes)
    with _progress() as bars:
        task = bars.add_task(f"reading {path}", total=None)
        result = load_images(
            path, prepared, names, lambda done, total: bars.update(task, completed=done, total=total)
        )
    for name, reason in result.unreadable[:20]:
        _errors.print(f"unreadable: {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if result.unreadable:
        total = len(result.unreadable) + len(result)
        _errors.print(
            f"{path}: {len(result.unreadable)} of {total} images are unreadable", markup=False, soft_wrap=True
        )
    if limit is not None and limit < 1:
        raise DesignError(f"--max-images {limit}: expected at least 1")
    return result if limit is None or limit >= len(result) else result.first(limit)


def _options(batch_norm: str, scope: str, rule: str, rounding: str, overflow: str) -> dict[str, Any]:
    for option, given, known in (
        ("--batch-norm", batch_norm, get_args(BatchNormForm)),
        ("--scope", scope, get_args(BinaryPointScope)),
        ("--rule", rule, ("default", *get_args(BinaryPointRule))),
        ("--rounding", rounding, tuple(RoundingMode)),
        ("--overflow", overflow, tuple(Overflow)),
    ):
        if given not in known:
            raise DesignError(f"{option} {given!r}: expected one of {', '.join(known)}")
    point = {"scope": scope} if rule == "default" else {"scope": scope, "rule": rule}
    options = {
        "batch_norm": batch_norm,
        "binary_point": point,
        "rounding": rounding,
        "overflow": overflow,
    }
    if rounding == "STOCHASTIC":  # an exactly rounded division has nothing to draw for
        options["average_pool"] = "reciprocal"
    return options


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


def _constraints(fix: list[str], memory: int | None, one_width: bool, equal: bool) -> Constraints:
    fixed: dict[str, int] = {}
    for text in fix:
        name, equals, bits = text.rpartition("=")
        if not equals or not bits.isdecimal() or len(bits) > 2:
            raise DesignError(f"--fix {text!r}: expected LAYER=BITS, such as conv1=8")
        if fixed.setdefault(name, int(bits)) != int(bits):
            raise DesignError(
                f"--fix {text!r}: expected one word length, and {name} has {fixed[name]} already"
            )
    if memory is not None and memory < 1:
        raise DesignError(f"--memory {memory}: expected at least 1 bit")
    return Constraints(fixed, memory, one_width, equal)


def _emit(document: Any) -> None:
    sys.stdout.write(json.dumps(msgspec.to_builtins(document), indent=2) + "\n")


def _writable(path: Path) -> Path:
    """Refuse an output file that cannot be written before any work is done; nothing is made yet.

    Raises:
        RunError: a folder, a device or a pipe is there, or nothing can be written there.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise RunError(f"{path}: is {what}: expected the name of a file")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def _make_parents(path: Path) -> None:
    """Make the folder of an output file, once there is something to write.

    Raises:
        RunError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


def _inspect_engines(as_json: bool) -> None:
    """What can run a quantized network here."""
    sets = instruction_sets()
    chosen = chosen_instruction_set() if sets else None
    if as_json:
        _emit({"engines": [name for name in ENGINES if sets or name != "native"], "instruction_sets": sets,
               "chosen": chosen})  # fmt: skip
        return
    table = Table("engine", "instruction set", "on this machine")
    for name in ENGINES:
        if name != "native":
            table.add_row(name, "", "yes")
            continue
        if not sets:
            table.add_row(name, "", "not installed: no working C++ compiler when it was")
        for isa, usable in sets.items():
            table.add_row(name, isa, "chosen" if isa == chosen else "yes" if usable else "no")
    _out.print(table)


@app.command()
def inspect(
    model: Annotated[str | None, typer.Argument(help=MODEL_HELP)] = None,
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
    """Tell what a model holds, or every operator in it that is not supported."""
    if engines:
        _inspect_engines(as_json)
        return
    if model is None:
        raise ModelError("no model: expected a file, or --engines")
    try:
        graph = load(model, _shape(input_shape))
    except UnsupportedError as error:
        if as_json:
            _emit({"supported": False, "unsupported": [list(o) for o in error.operators]})
            raise typer.Exit(2) from None
        raise
    counts = Counter(layer.op for layer in graph.layers)
    parameters = sum(value.size for value in graph.parameters.values())
    if as_json:
        _emit(
            {
                "supported": True,
                "input": list(graph.shapes[graph.input]),
                "classes": graph.shapes[graph.output][0],
                "operators": counts,
                "parameters": parameters,
                "layers": [
                    {
                        "name": x.name,
                        "op": x.op,
                        "inputs": list(x.inputs),
                        "shape": list(graph.shapes[x.name]),
                    }
                    for x in graph.layers
                ],
            }
        )
        return
    table = Table("layer", "operator", "result (channels, height, width)", "parameters")
    for layer in graph.layers:
        own = sum(graph.parameter(layer, role).size for role in layer.parameters)
        table.add_row(escape(layer.name), layer.op, str(graph.shapes[layer.name]), f"{own:,}" if own else "")
    _out.print(table)
    _out.print(
        f"{graph.shapes[graph.input]} in, {graph.shapes[graph.output][0]} classes out, {parameters:,} "
        f"parameters; " + ", ".join(f"{count} {op}" for op, count in sorted(counts.items())),
        highlight=False,
    )
    if counts["conv"] and not counts["batch_norm"]:
        _out.print(
            "No batch normalization: if the network was trained with it, the exporter folded it into the "
            "convolutions, and separate representations have nothing to separate. See 'search --help'."
        )


def _ranges(path: str | None, graph: Graph, calibration: ImageSet) -> Ranges | None:
    if path is None:
        return None
    found = Ranges.load(path)
    try:
        found.check(graph, calibration)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return found


@app.command("calibrate")
def calibrate_command(
    model: Model,
    calibration: Calibration,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of ranges to write (.npz).")],
    images: Annotated[
        list[str] | None,
        typer.Option(help="Images that a search will judge on, and those held out; repeatable."),
    ] = None,
    input_shape: InputShape = None,
    classes: Classes = None,
    preprocessing: PreprocessingFile = None,
    max_images: MaxImages = None,
) -> None:
    """Measure the float network once, for searches on any machine: ranges, and what it makes of images.

    Example: radixpoint calibrate resnet50.onnx --calibration calib/ --images val/ -o ranges.npz
    """
    _writable(out)
    calibration_set = _images(calibration, classes, preprocessing)
    judged = [_images(path, classes, preprocessing, max_images) for path in images or []]
    graph = _load(model, input_shape, calibration_set)
    with _progress() as bars:
        task = bars.add_task("calibration", total=None)
        found = calibrate(
            graph, calibration_set, lambda done, total: bars.update(task, completed=done, total=total), judged
        )
    _make_parents(out)
    found.save(out)
    _out.print(
        f"{out}: {len(found.tensors)} tensors on {len(calibration_set)} images, outcomes of "
        f"{sum(map(len, judged))} images",
        markup=False,
        highlight=False,
    )


@app.command("quantize")
def quantize_command(
    model: Model,
    design: Annotated[str, typer.Option(help="The design file (docs/design-file.md).")],
    calibration: Calibration,
    out: Annotated[Path, typer.Option("--out", "-o", help="The quantized network to write (.safetensors).")],
    input_shape: InputShape = None,
    classes: Classes = None,
    preprocessing: PreprocessingFile = None,
    ranges: RangesFile = None,
    as_json: AsJson = False,
) -> None:
    """Quantize a network by a design and write it as stored integers and casts."""
    chosen = Design.load(design)
    _writable(out)
    images = _images(calibration, classes, preprocessing)
    graph = _load(model, input_shape, images)
    chosen.check(graph)
    with _progress() as bars:
        task = bars.add_task("calibration", total=len(images))
        measured = _ranges(ranges, graph, images) or calibrate(
            graph, images, lambda done, _: bars.update(task, completed=done)
        )
        bars.update(task, description="choosing formats and rounding", total=None)
        network = quantize(graph, measured, chosen, images)
    _make_parents(out)
    save_network(network, out)
    widest = max(
        (network.tensors[s.name].format.word_length for s in network.steps if s.op in ("conv", "dense")),
        default=0,
    )
    if as_json:
        _emit(
            {
                "network": str(out),
                "digest": network.digest,
                "widest_accumulator": widest,
                "formats": {name: str(t.format) for name, t in network.tensors.items()},
            }
        )
        return
    table = Table("layer", "step", "format of its result", "proven range of stored integers")
    for step in network.steps:
        t = network.tensors[step.name]
        table.add_row(escape(t.layer), step.op, str(t.format), f"{t.low} .. {t.high}")
    _out.print(table)
    _out.print(f"{out}: {len(network.steps)} steps, widest accumulator {widest} bits", markup=False)


@app.command("evaluate")
def evaluate_command(
    model: Model,
    network: Annotated[str, typer.Option(help="The quantized network (from 'quantize' or a run folder).")],
    images: Images,
    input_shape: InputShape = None,
    classes: Classes = None,
    preprocessing: PreprocessingFile = None,
    metric: Metric = "top1",
    engine: Annotated[
        str,
        typer.Option(help="native, blas or reference (the definition); auto: the fastest that is installed."),
    ] = "auto",
    threads: Threads = 0,
    layers: Annotated[
        bool, typer.Option(help="Also print each layer's SQNR on the first 64 images.")
    ] = False,
    confidence: Confidence = None,
    max_images: MaxImages = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy of a quantized network against the float network, on the same images."""
    check_engine(engine, threads)
    criterion = _criterion(metric, 0.0, confidence)
    image_set = _images(images, classes, preprocessing, max_images)
    graph = _load(model, input_shape, image_set)
    quantized = load_network(network)
    if quantized.metadata.get("network") != graph.digest:
        raise ModelError(f"{network}: was not quantized from {model}: their digests differ")
    design = Design.recorded(quantized)
    if layers and design is not None and design.equalize:
        raise DesignError(
            f"--layers: the design of {network} moves powers of two between channels, so its tensors are not "
            f"those of {model}: expected a design without equalize"
        )
    if engine == "auto":
        _note_the_engine()
    with _progress() as bars:
        task = bars.add_task("evaluate", total=len(image_set))
        result = evaluate(
            graph,
            quantized,
            image_set,
            criterion.metric,
            engine,
            lambda done, _: bars.update(task, completed=done),
            threads,
            confidence,
        )
    sqnr = layer_sqnr(graph, quantized, image_set.inputs(0, 64)) if layers else {}
    if as_json:
        _emit(
            {
                **msgspec.to_builtins(result),
                "preprocessing": msgspec.to_builtins(image_set.preprocessing),
                "unreadable": [list(pair) for pair in image_set.unreadable],
                "layer_sqnr": {name: value if abs(value) < 1e9 else None for name, value in sqnr.items()},
            }
        )
        return
    if layers:
        table = Table("layer", "SQNR, dB")
        for name, value in sqnr.items():
            table.add_row(escape(name), f"{value:.1f}")
        _out.print(table)
    low, high = result.drop_interval
    _out.print(
        f"{result.images} images: float top-1 {result.float_top1:.2f} %, top-5 {result.float_top5:.2f} %; "
        f"quantized top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %\n"
        f"{metric} drop {result.drop:+.2f} points, paired 95 % interval [{low:+.2f}, {high:+.2f}]; the two "
        f"agree on {result.agreement:.2f} % of the images",
        highlight=False,
        markup=False,
    )
    if confidence is not None:
        _out.print(
            f"with {100 * confidence:g} % confidence the drop is at most {result.drop_bound:+.2f} points",
            highlight=False,
        )


def _criterion(metric: str, limit: float, confidence: float | None = None) -> Criterion:
    try:
        return Criterion(check_metric(metric), limit, confidence)
    except DesignError as error:
        sure = "" if confidence is None else f", --confidence {confidence}"
        raise DesignError(f"--metric {metric!r}, --limit {limit}{sure}: {error}") from None


def _report(result: dict[str, Any], out: Path) -> None:
    """The table at the end of a search."""
    metric = result["criterion"]["metric"]
    _out.print(
        f"float: top-1 {result['float']['top1']:.2f} %, top-5 {result['float']['top5']:.2f} % on "
        f"{result['images']['count']} images",
        highlight=False,
    )
    confidence = result["criterion"]["confidence"]
    table = Table(
        "policy",
        "word lengths, bits",
        "top-1, %",
        f"{metric} drop, points",
        "95 % interval",
        *([] if confidence is None else [f"at most, {100 * confidence:g} % sure"]),
        "multipliers, relative to joint",
    )
    for name, policy in result["policies"].items():
        if name == "joint":
            words = f"all {policy['word_length']}"
        elif policy.get("average"):
            average = policy["average"]
            words = f"weights {average['weight']:.2f}, operands {average['operand']:.2f}, bn {policy['bn']}"
        else:
            words = f"conv {policy['conv']}, bn {policy['bn']}"
        if "multiplier_cost" not in policy:
            longest = result["word_lengths"][-1]
            table.add_row(name, f"none up to {longest} holds")
            continue
        low, high = policy["drop_interval"]
        relative = policy["relative_cost"]
        table.add_row(
            name,
            words,
            f"{policy['top1']:.2f}",
            f"{policy['drop']:+.2f}",
            f"{low:+.2f} .. {high:+.2f}",
            *([] if confidence is None else [f"{policy['drop_bound']:+.2f}"]),
            "" if relative is None else f"{relative:.2f}",
        )
    _out.print(table)
    apart = not any(both for kind, both in result["overlap"].items() if kind.startswith("held_out"))
    for name, policy in result["policies"].items():
        if policy["held_out"] is not None:
            low, high = policy["held_out"]["drop_interval"]
            _out.print(
                f"{name}, held out: {policy['held_out']['drop']:+.2f} [{low:+.2f}, {high:+.2f}] on "
                f"{policy['held_out']['images']} images"
                + (" that took no part" if apart else ", some of which took part"),
                highlight=False,
                markup=False,
            )
    for name, policy in result["policies"].items():
        if policy["adopted"]:
            _out.print(
                f"{name}: its own path missed this design, which another policy's found", highlight=False
            )
        if not policy["monotone"]:
            _out.print(f"{name}: not monotone: a longer word length fails; see result.json", highlight=False)
    _out.print(
        f"{out}: result.json; design.json and network.safetensors of each policy that holds", markup=False
    )


def _note_the_engine() -> None:
    """One line where the fast engine is missing, lest its absence pass for slowness."""
    if not instruction_sets():
        _errors.print(
            "the native engine is not installed (no working C++ compiler at installation): using blas, which "
            "gives the same integers more slowly",
            soft_wrap=True,
        )


def _search(
    graph: Graph, images: ImageSet, calibration: ImageSet, out: Path, as_json: bool, **arguments: Any
) -> None:
    _note_the_engine()
    try:
        with _progress() as bars:
            result = search(graph, images, calibration, out, watcher=_Bars(bars), **arguments)
    except KeyboardInterrupt:
        _errors.print(
            f"interrupted; what is known is in {out}: the same command, with --out {out}, goes on from there",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise
    if result["held_out"] is None and result["criterion"]["confidence"] is None:
        _errors.print(
            "the designs were chosen on these images, so their drops are a little too good: --held-out "
            "reports on others, and --confidence allows for it",
            highlight=False,
            soft_wrap=True,
        )
    _emit(result) if as_json else _report(result, out)


@app.command("search")
def search_command(
    model: Model,
    images: Images,
    calibration: Calibration,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Run folder; an interrupted search goes on where it was.")
    ],
    limit: Annotated[float, typer.Option(help="Largest drop allowed, in percentage points.")] = 1.0,
    metric: Metric = "top1",
    confidence: Confidence = None,
    policy: Annotated[
        list[str],
        typer.Option(
            help="Repeatable. "
            + "; ".join(f"{name}: {one.about}" for name, one in POLICIES.items())
            + "; greedy: one bit off the layer that takes it best (Judd et al. 2015); "
            "per-layer: cheapest word "
            "length of each layer, by an integer program."
        ),
    ] = ("joint", "separate"),  # type: ignore[assignment]
    held_out: Annotated[
        str | None,
        typer.Option(
            help="Images that take no part in the search, to report on: a path, or a number, "
            "which takes so many of --images away, drawn at random."
        ),
    ] = None,
    objective: Annotated[
        str,
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
            help="For per-layer: bits that all parameters together may take, biases and batch "
            "normalization's at --bn-start."
        ),
    ] = None,
    one_width: Annotated[
        bool, typer.Option(help="For per-layer: one word length for all layers that are not fixed.")
    ] = False,
    equal: Annotated[
        bool, typer.Option(help="For per-layer: weights and activations of a layer at one word length.")
    ] = False,
    batch_norm: BatchNorm = "affine",
    scope: Scope = "tensor",
    rule: Rule = "default",
    rounding: Rounding = "RND",
    overflow: OverflowMode = "SAT",
    unsigned: Unsigned = False,
    refine: Refine = "",
    equalize: Annotated[
        bool,
        typer.Option(
            help="First move powers of two between the channels of a layer and of the next one behind its "
            "ReLU; the float network computes the same."
        ),
    ] = False,
    word_lengths: Annotated[
        str, typer.Option(help="Candidates, smallest:largest, or a list: 4,6,8.")
    ] = "2:16",
    bn_start: Annotated[int, typer.Option(help="bn word length while conv's is searched.")] = 16,
    grid: Annotated[bool, typer.Option(help="Also evaluate every conv x bn pair on every image.")] = False,
    input_shape: InputShape = None,
    classes: Classes = None,
    preprocessing: PreprocessingFile = None,
    max_images: MaxImages = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of finished evaluations, to share between searches.")
    ] = None,
    ranges: RangesFile = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let the result of another search in the run folder go.")
    ] = False,
    at_chance: Annotated[
        bool, typer.Option("--at-chance", help="Search even if the float network is no better than guessing.")
    ] = False,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Find the smallest word lengths whose accuracy drop stays within a limit.

    Example: radixpoint search resnet50.onnx --images val/ --calibration calib/ --limit 1.0 --out run
    """
    criterion = _criterion(metric, limit, confidence)
    options = _options(batch_norm, scope, rule, rounding, overflow)
    options["unsigned"], options["equalize"] = unsigned, equalize
    options["refine"] = [name for name in refine.split("+") if name]
    if unknown := set(options["refine"]) - set(TECHNIQUES):
        raise DesignError(f"--refine {min(unknown)!r}: expected some of {'+'.join(TECHNIQUES)}")
    lengths = _word_lengths(word_lengths)
    check_engine("auto", threads)
    image_set = _images(images, classes, preprocessing, max_images)
    calibration_set = _images(calibration, classes, preprocessing)
    reported = None
    if held_out is not None and held_out.isdecimal() and len(held_out) < 10:
        image_set, reported = image_set.parted(len(image_set) - int(held_out))
    elif held_out is not None:
        reported = _images(held_out, classes, preprocessing)
    if objective not in get_args(Objective):
        raise DesignError(f"--objective {objective!r}: expected {', '.join(get_args(Objective))}")
    limits = _constraints(fix or [], memory, one_width, equal)
    if "per-layer" not in policy and (limits != Constraints() or objective != "multipliers"):
        raise DesignError(
            f"--objective, --fix, --memory, --one-width, --equal with --policy {', '.join(policy)}: expected "
            "--policy per-layer, which keeps to them"
        )
    graph = _load(model, input_shape, image_set)
    _search(
        graph,
        image_set,
        calibration_set,
        out,
        as_json,
        criterion=criterion,
        policies=list(policy),
        word_lengths=lengths,
        bn_start=bn_start,
        grid=grid,
        cache=cache,
        threads=threads,
        held_out=reported,
        objective=objective,
        constraints=limits,
        ranges=_ranges(ranges, graph, calibration_set),
        replaces=replace,
        at_chance=at_chance,
        **options,
    )


VERIFY_BATCH = 64


@app.command("export")
def export_command(
    network: Annotated[str, typer.Argument(help="The quantized network (from 'quantize' or a run folder).")],
    to: Annotated[
        str, typer.Option(help="; ".join(f"{name}: {target.summary}" for name, target in TARGETS.items()))
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder to write: new, or an earlier export nobody changed."),
    ],
    images: Annotated[
        str | None,
        typer.Option(help="Images to verify on, every tensor of each. Default: random stored integers."),
    ] = None,
    count: Annotated[int, typer.Option(help="How many of the images.")] = 2,
    classes: Classes = None,
    preprocessing: PreprocessingFile = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a target, name=value; vectors: memory=hex+coe+mif+raw; c: parameters=arrays or blob; "
            "verilog: lanes=16."
        ),
    ] = None,
) -> None:
    """Write a quantized network for another tool; 'verify' then runs it and compares every integer.

    Example: radixpoint export run/separate/network.safetensors --to c -o firmware
    """
    target_named(to)
    if count < 1:
        raise DesignError(f"--count {count}: expected at least 1")
    check_replaceable(out)
    options = {}
    for text in option or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise DesignError(f"--option {text!r}: expected name=value")
        options[name] = value
    quantized = load_network(network)
    stored = None
    if images is not None:
        image_set = _images(images, classes, preprocessing, count)
        stored = quantize_images(quantized, image_set.inputs(0, len(image_set)))
    export_network(quantized, to, out, stored, options)
    _out.print(f"{out}: written; 'radixpoint verify {out}' runs it", markup=False, highlight=False)


def _report_verification(result: Verification, as_json: bool) -> None:
    differs = result.mismatch
    if as_json:
        _emit(msgspec.to_builtins(result) | {"equal": differs is None})
        return
    table = Table("run", "layer", "integers compared", "")
    for layer in result.layers:
        table.add_row(
            layer.engine, escape(layer.layer), f"{layer.values:,}", "differ" if layer.mismatch else "equal"
        )
    _out.print(table)
    for name in result.changed:
        _out.print(f"{name}: changed since the export", markup=False, highlight=False)
    if differs is not None:
        index = ", ".join(map(str, differs.index))
        _out.print(
            f"first difference: layer {result.layers[-1].layer!r}, tensor {differs.tensor!r}, "
            f"index [{index}] (image first): expected {differs.expected}, got {differs.got}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return
    more = f", and the logits of {result.more_images} more" if result.more_images else ""
    _out.print(f"equal: every tensor of {result.images} images{more}", highlight=False)


@app.command("verify")
def verify_command(
    folder: Annotated[Path, typer.Argument(help="A folder written by 'export'.")],
    images: Annotated[
        str | None, typer.Option(help="Further images, whose logits are compared as well.")
    ] = None,
    classes: Classes = None,
    preprocessing: PreprocessingFile = None,
    max_images: MaxImages = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Refuse a folder in which anything was added or changed since the export."
        ),
    ] = False,
    time_limit: Annotated[
        float, typer.Option(help="Seconds that a compiler, a simulator or the exported program may take.")
    ] = TIME_LIMIT,
    as_json: AsJson = False,
) -> None:
    """Run what an export holds and compare every integer; exit 1 if any differs, 2 if it cannot be run.

    This compiles and runs what lies in the folder: verify only folders that you trust, or with --strict ones
    whose manifest you trust.
    """
    image_set = None if images is None else _images(images, classes, preprocessing, max_images)

    def batches(network: IntGraph) -> Iterator[Any]:
        assert image_set is not None
        for first in range(0, len(image_set), VERIFY_BATCH):
            yield quantize_images(network, image_set.inputs(first, min(first + VERIFY_BATCH, len(image_set))))

    with _progress() as bars:
        task = bars.add_task("verify", total=None if image_set is None else len(image_set))
        result = verify_export(
            folder,
            None if image_set is None else batches,
            lambda done: bars.update(task, completed=done),
            strict,
            time_limit,
        )
    _report_verification(result, as_json)
    if result.mismatch is not None:
        raise typer.Exit(1)


MODULE_WORD_LENGTHS = range(4, 17)


def _module_costs() -> dict[str, Any]:
    """Cells of each module at each word length, by module and word length."""
    result: dict[str, Any] = {}
    with _progress() as bars:
        for word in bars.track(MODULE_WORD_LENGTHS, description="synthesis"):
            for name, part in module_table(word).items():
                gates, logic, dsp = (synthesize(*part, flow) for flow in ("gates", "lut", "dsp"))
                result.setdefault(name, {})[word] = {
                    "gate_equivalents": round(gates.gate_equivalents, 1),
                    "luts_without_dsp": logic.luts,
                    "luts": dsp.luts,
                    "dsps": dsp.dsps,
                    "flip_flops": dsp.flip_flops,
                    "yosys": gates.yosys,
                }
    return result


def _report_modules(found: dict[str, Any]) -> None:
    for name, by_word in found.items():
        table = Table(
            "bits", "gate equivalents", "LUTs without DSP", "LUTs", "DSPs", "flip-flops", title=name
        )
        for word, cells in by_word.items():
            keys = ("luts_without_dsp", "luts", "dsps", "flip_flops")
            table.add_row(str(word), f"{cells['gate_equivalents']:,.0f}", *(f"{cells[k]:,}" for k in keys))
        _out.print(table)


def _report_cost(found: Cost, machine: AcceleratorCost, area: Area | None) -> None:
    table = Table("one image", "")
    rows: list[tuple[str, str]] = [
        ("multiply-accumulates", f"{found.macs:,} of {found.conv_bits[0]} x {found.conv_bits[1]} bits"),
        (
            "batch normalization and pooling",
            f"{found.scalings:,} products of {found.scale_bits[0]} x {found.scale_bits[1]} bits",
        ),
        ("bit operations (BOPs)", f"{found.bit_operations:,}"),
        ("weights", f"{found.weight_bits / 8 / 1024:,.1f} KiB"),
        ("other parameters", f"{found.parameter_bits / 8 / 1024:,.1f} KiB"),
        ("activations alive at once", f"{found.activation_bits / 8 / 1024:,.1f} KiB"),
        ("energy of the arithmetic", f"{found.energy / 1e6:,.3g} uJ"),
    ]
    for name, value in rows:
        table.add_row(name, value)
    _out.print(table)
    table = Table(f"accelerator, {machine.lanes} x {machine.lanes} multipliers", "")
    table.add_row("clocks an image", f"{machine.clocks:,}")
    table.add_row("multipliers busy", f"{100 * machine.busy:.0f} %")
    for name, bits in machine.memories.items():
        outside = " (off chip)" if name in ("weights", "parameters", "descriptors") else ""
        table.add_row(name + outside, f"{bits / 8 / 1024:,.1f} KiB")
    for name, energy in machine.energy.items():
        table.add_row(f"energy: {name}", f"{energy / 1e6:,.3g} uJ")
    table.add_row("DSP48E2, sharing products", f"{machine.dsps:,}")
    if area is not None:
        table.add_row("gate equivalents: array", f"{area.array_gates:,.0f}")
        table.add_row("gate equivalents: lanes", f"{area.lane_gates:,.0f}")
        table.add_row("LUTs with DSPs: array, lanes", f"{area.array_luts:,}, {area.lane_luts:,}")
        table.add_row("LUTs without: array, lanes", f"{area.array_logic:,}, {area.lane_logic:,}")
        table.add_row("DSPs that Yosys infers", f"{area.dsps:,}")
        table.add_row("flip-flops", f"{area.flip_flops:,}")
    _out.print(table)


@app.command("cost")
def cost_command(
    network: Annotated[str | None, typer.Argument(help="The quantized network.")] = None,
    lanes: Annotated[int, typer.Option(help="The accelerator has lanes x lanes multipliers.")] = LANES,
    synthesis: Annotated[bool, typer.Option(help="Gate equivalents, LUTs and DSPs, by Yosys.")] = True,
    modules: Annotated[
        bool, typer.Option("--modules", help="The hardware modules at every word length instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What a quantized network costs in hardware: operations, memory, energy, clocks, area.

    Example: radixpoint cost run/separate/network.safetensors
    """
    if modules == (network is not None):
        raise DesignError("cost: expected a quantized network, or --modules")
    if network is None:
        table = _module_costs()
        if as_json:
            _emit(table)
        else:
            _report_modules(table)
        return
    quantized = load_network(network)
    design = Design.recorded(quantized)
    if design is not None and design.codes != Codes():
        coded = [kind for kind in ("weights", "activations") if getattr(design.codes, kind) is not None]
        raise DesignError(
            f"{network}: its design codes {' and '.join(coded)}: expected fixed-point operands, whose "
            "multipliers are what is counted"
        )
    machine = accelerator_cost(quantized, lanes)
    area = None
    if synthesis:
        with _progress() as bars:
            task = bars.add_task("", total=None)
            area = accelerator_area(
                machine.sizes,
                lanes,
                lambda what, done, total: bars.reset(task, description=what, completed=done, total=total),
            )
    found = cost(quantized)
    if as_json:
        parts = {"network": found, "accelerator": machine, "area": area}
        _emit({name: msgspec.to_builtins(part) for name, part in parts.items()})
    else:
        _report_cost(found, machine, area)


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; default: a new one among temporary files.")
    ] = None,
    limit: Annotated[float, typer.Option(help="Largest drop allowed, in percentage points.")] = 1.0,
    metric: Metric = "top1",
    batch_norm: BatchNorm = "affine",
    scope: Scope = "tensor",
    rule: Rule = "default",
    as_json: AsJson = False,
) -> None:
    """The whole job on a network and images inside the package: a quarter-width ResNet-50, Fashion-MNIST."""
    criterion = _criterion(metric, limit)
    options = _options(batch_norm, scope, rule, "RND", "SAT")

    folder = out or Path(tempfile.mkdtemp(prefix="radixpoint-demo-"))
    _search(
        demo_network(),
        demo_images("test"),
        demo_images("calibration"),
        folder,
        as_json,
        criterion=criterion,
        **options,
    )


def _unexpected(error: Exception) -> None:
    """One line on an error that nobody foresaw, and a file that tells where it came from."""
    kept = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            prefix="radixpoint-error-",
            suffix=".txt",
            delete=False,
            encoding="utf-8",
            errors="backslashreplace",
        ) as handle:
            handle.write("".join(traceback.format_exception(error)))
        kept = f"; {handle.name} tells where"
    except OSError:
        pass  # there is nowhere to write to: the line has to do
    said = shown((str(error).splitlines() or [""])[0][:300])
    _errors.print(
        f"error: {type(error).__name__}: {said}: not foreseen: a defect of radixpoint{kept}",
        style="red",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def main() -> None:
    """Entry point: errors of the user become one message and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be no text
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except RadixpointError as error:
        said = "\n".join(map(shown, str(error).splitlines()))
        _errors.print(f"error: {said}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:  # the last resort
        _unexpected(error)
        sys.exit(2)
