"""Finds the smallest fixed-point representation of a trained CNN, and simulates it bit-exactly.

The main job in six calls::

    graph = radixpoint.load("resnet50.onnx")
    images = radixpoint.load_images("validation/")
    ranges = radixpoint.calibrate(graph, radixpoint.load_images("calibration/"))
    design = radixpoint.Design.separate(conv=10, bn=16)
    network = radixpoint.quantize(graph, ranges, design)
    print(radixpoint.evaluate(graph, network, images))

and ``radixpoint.search`` finds the design.

Names are loaded when they are first used; ``__init__.pyi`` lists them.
"""

from typing import Any

import lazy_loader

_loaded, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":  # looking it up takes a while
        from importlib.metadata import version

        return version("radixpoint")
    return _loaded(name)
