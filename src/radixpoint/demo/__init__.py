"""The embedded network and images: a quarter-width ResNet-50 trained on Fashion-MNIST.

Made by ``training/train_demo.py`` of the source repository. The images and labels are Fashion-MNIST's
(Zalando SE, MIT licence, see ``LICENSE.fashion-mnist``); the weights are under radixpoint's own licence.
"""

from __future__ import annotations

from importlib.resources import as_file, files

from radixpoint.data import ImageSet, Preprocessing, load_images
from radixpoint.importers import load
from radixpoint.ir.graph import Graph

PREPROCESSING = Preprocessing(mean=(0.286,), std=(0.353,), channel_order="L")
"""What the network was trained with; 28 x 28 pixels as stored."""
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def demo_network() -> Graph:
    """The network: 53 convolutions, 53 batch normalizations, 1 x 28 x 28 in, 10 classes out."""
    with as_file(files(__name__) / "resnet50-quarter.safetensors") as path:
        return load(path, (1, 28, 28))


def demo_images(which: str) -> ImageSet:
    """``which`` is "test" (all 10,000 test images) or "calibration" (1,000 training images)."""
    with as_file(files(__name__) / f"{which}.npz") as path:
        return load_images(path, PREPROCESSING, CLASSES)
