"""Options that several commands have: one name, one short flag and one help text each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from radixpoint.arithmetic import formats
from radixpoint.errors import DesignError
from radixpoint.measure import metrics
from radixpoint.quantization import design

MODEL_HELP = (
    "The trained network: an ONNX model (.onnx), a Caffe description (.prototxt, with --weights), a program "
    "of torch.export (.pt2), the weights of a torchvision ResNet (.safetensors, .pt), or a name: "
    "torch:package.module:factory (your code, which is run), torchvision:NAME, timm:NAME. Batch "
    "normalization must not be folded into the convolutions; with torch.onnx.export use dynamo=True, "
    "optimize=False, or dynamo=False, training=TrainingMode.PRESERVE."
)
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        help="Of a Caffe description (.caffemodel), or of a module by name (.pt, .safetensors).",
    ),
]
Model = Annotated[str, typer.Argument(help=MODEL_HELP)]
InputShape = Annotated[
    str | None,
    typer.Option(
        help="Channels,height,width of one image, such as 3,224,224; needed where the model does not say. "
        "Default: the shape of the images."
    ),
]
IMAGES_HELP = (
    "Images to judge on: a folder per class, a tar of that (or of WebDataset's samples; "
    "shards-{000..009}.tar), an .npz or .npy, a .parquet, a .txt list; with --labels a folder or tar of "
    "images."
)
Images = Annotated[str, typer.Option("--images", "-i", help=IMAGES_HELP)]
Calibration = Annotated[
    str,
    typer.Option(
        "--calibration",
        "-c",
        help="Images to choose binary points from, likewise; keep them apart from --images.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(help="File of class folders in the order of the network's outputs. Default: sorted."),
]
PreprocessingFile = Annotated[
    str | None,
    typer.Option(
        help="JSON with torchvision's names: resize_size, crop_size, mean, std, interpolation; and "
        "channel_order, rescale. Or a Caffe description (.prototxt) with transform_param, or for a Caffe "
        "model a mean file (.binaryproto). Default: of a Caffe model its transform_param, else ImageNet's "
        "mean and std, size as stored."
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        help="Targets of --images that lie apart: ImageNet's development kit or ground truth, a list "
        "(Caffe's val.txt), a .csv, a folder of masks (.png) or arrays (.npy), or an .npy."
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        help="Folder in which decoded pixels are kept for later runs; 'none' keeps nothing. Default: the "
        "user's folder for caches (or RADIXPOINT_STORE), for sets of 256 MiB and more."
    ),
]
MaxImages = Annotated[
    int | None, typer.Option(min=1, help="Use a fixed random choice of so many images, for a quick look.")
]
RangesFile = Annotated[
    str | None,
    typer.Option(
        help="What was measured of the float network: from 'calibrate', or ranges.npz of a run folder. From "
        "the same file every machine gets the same result. Default: measured here."
    ),
]
Network = Annotated[
    str, typer.Option("--network", "-n", help="The quantized network (from 'quantize' or a run folder).")
]
BatchNorm = Annotated[
    design.BatchNorm,
    typer.Option(help="Form of batch normalization: affine (y = s*x + t), staged (Caffe's), folded."),
]
Scope = Annotated[design.Scope, typer.Option(help="Who shares a binary point.")]
Rule = Annotated[
    design.Rule | None,
    typer.Option(
        help="How a binary point is chosen: max, percentile, mse; sqnr (least error of each layer's output); "
        "or loss (answers nearest to float's). Default: loss for the scopes network and class, else max."
    ),
]
Unsigned = Annotated[
    bool,
    typer.Option("--unsigned", help="No sign bit in operands that a ReLU keeps from being negative."),
]


def techniques(text: str) -> list[str]:
    """``--refine``: names joined by ``+``.

    Raises:
        DesignError: one is unknown.
    """
    given, known = [name for name in text.split("+") if name], get_args(design.Technique)
    if unknown := set(given) - set(known):
        raise DesignError(f"--refine {min(unknown)!r}: expected some of {'+'.join(known)}")
    return given


Refine = Annotated[
    str,
    typer.Option(
        help="Improve stored integers on the calibration images, without labels: offsets (correct means), "
        "columns (round weights by second moments), units (move weights one by one), blocks (train one "
        "block after the other; needs torch); joined by +."
    ),
]
Rounding = Annotated[formats.Rounding, typer.Option(help="Of casts, by its Vitis HLS name.")]
OverflowMode = Annotated[formats.Overflow, typer.Option("--overflow", help="Of casts, likewise.")]
Metric = Annotated[
    str,
    typer.Option(
        "--metric",
        "-m",
        help=f"What must not get worse: {metrics.KNOWN}; or package.module:name of your own (your code, "
        "which is run).",
    ),
]
Limit = Annotated[
    str,
    typer.Option(
        "--limit",
        "-l",
        help="Largest drop allowed, in the metric's unit (percentage points of a share); 1% is relative to "
        "the float network's score.",
    ),
]
Confidence = Annotated[
    float | None,
    typer.Option(
        help="Such as 0.95: what is said holds, with at least this probability, on images that nobody looked "
        "at, and not only on --images."
    ),
]
Threads = Annotated[
    int,
    typer.Option("--threads", "-t", help="Threads of the engine; 0 takes all cores. Results are the same."),
]
EngineName = Annotated[
    Literal["auto", "native", "blas", "torch", "reference"],
    typer.Option(
        "--engine",
        "-e",
        help="What runs quantized networks; all give the same integers. auto: native, or blas where it is "
        "missing; reference is the definition.",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="For --engine torch: PyTorch's name of a device, as cpu or cuda:0.")
]
Target = Annotated[
    str | None,
    typer.Option(
        help="The hardware: a file (docs/targets.md), or a name that 'radixpoint target' lists. What it "
        "cannot run is refused, and a search stays within it."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
RunFolder = Annotated[
    Path, typer.Option("--out", "-o", help="Run folder; an interrupted search goes on where it was.")
]
