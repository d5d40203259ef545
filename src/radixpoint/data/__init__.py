"""Images: where they come from, how their pixels become a network's input, and a set of them with targets."""

from radixpoint.data.imageset import ImageSet
from radixpoint.data.preprocessing import Preprocessing
from radixpoint.data.sources import load_images, read_classes

__all__ = ["ImageSet", "Preprocessing", "load_images", "read_classes"]
