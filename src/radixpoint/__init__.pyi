from . import (
    accelerator as accelerator,
)
from . import (
    arithmetic as arithmetic,
)
from . import (
    cli as cli,
)
from . import (
    data as data,
)
from . import (
    demo as demo,
)
from . import (
    engines as engines,
)
from . import (
    errors as errors,
)
from . import (
    export as export,
)
from . import (
    files as files,
)
from . import (
    importers as importers,
)
from . import (
    ir as ir,
)
from . import (
    measure as measure,
)
from . import (
    quantization as quantization,
)
from . import (
    report as report,
)
from . import (
    searching as searching,
)
from .accelerator.cost import Cost, cost
from .accelerator.target import HardwareTarget
from .arithmetic.formats import FixedFormat, Overflow, Rounding
from .data import ImageSet, Preprocessing, load_images, read_classes
from .data.caffe_images import caffe_preprocessing
from .engines import make_engine, quantize_images
from .errors import RadixpointError
from .export import export_network, verify_export
from .importers import load
from .importers.quantized import load_quantized
from .ir.graph import Graph
from .ir.network import IntGraph
from .ir.storage import load_network, save_network
from .measure.calibrate import Ranges, calibrate
from .measure.detection import MeanAveragePrecision
from .measure.evaluate import Accuracy, Evaluation, accuracy, evaluate
from .measure.metrics import MeanIoU, Score, Total, find_metric, torch_metric
from .quantization.design import Design
from .quantization.quantize import quantize
from .quantization.retrain import retrain
from .quantization.training import Training
from .report.page import write_report
from .report.progress import Bars
from .searching import search
from .searching.criterion import Criterion

__version__: str

__all__ = [
    "Accuracy",
    "Bars",
    "Cost",
    "Criterion",
    "Design",
    "Evaluation",
    "FixedFormat",
    "Graph",
    "HardwareTarget",
    "ImageSet",
    "IntGraph",
    "MeanAveragePrecision",
    "MeanIoU",
    "Overflow",
    "Preprocessing",
    "RadixpointError",
    "Ranges",
    "Rounding",
    "Score",
    "Total",
    "Training",
    "__version__",
    "accuracy",
    "caffe_preprocessing",
    "calibrate",
    "cost",
    "evaluate",
    "export_network",
    "find_metric",
    "load",
    "load_images",
    "load_network",
    "load_quantized",
    "make_engine",
    "quantize",
    "quantize_images",
    "read_classes",
    "retrain",
    "save_network",
    "search",
    "torch_metric",
    "verify_export",
    "write_report",
]
