"""Finds the smallest fixed-point representation of a trained CNN, and simulates it bit-exactly.

The main job in six calls::

    graph = radixpoint.load("resnet50.onnx")
    images = radixpoint.load_images("validation/")
    ranges = radixpoint.calibrate(graph, radixpoint.load_images("calibration/"))
    design = radixpoint.Design.separate(conv=10, bn=16)
    network = radixpoint.quantize(graph, ranges, design)
    print(radixpoint.evaluate(graph, network, images))

and ``radixpoint.search`` finds the design.
"""

from radixpoint.calibrate import Ranges, calibrate
from radixpoint.data import ImageSet, Preprocessing, load_images, read_classes
from radixpoint.design import Design
from radixpoint.errors import RadixpointError
from radixpoint.evaluate import Evaluation, evaluate
from radixpoint.formats import FixedFormat, Overflow, Rounding
from radixpoint.importers import load
from radixpoint.ir import Graph, IntGraph
from radixpoint.quantize import quantize
from radixpoint.searching import Criterion, search
from radixpoint.storage import load_network, save_network

__all__ = [
    "Criterion",
    "Design",
    "Evaluation",
    "FixedFormat",
    "Graph",
    "ImageSet",
    "IntGraph",
    "Overflow",
    "Preprocessing",
    "RadixpointError",
    "Ranges",
    "Rounding",
    "calibrate",
    "evaluate",
    "load",
    "load_images",
    "load_network",
    "quantize",
    "read_classes",
    "save_network",
    "search",
]
