"""How accelerators of the literature move what a layer multiplies: what is read how often from where."""

from radixpoint.accelerator.dataflows.inner_product import InnerProduct
from radixpoint.accelerator.dataflows.moves import LayerRun, Move, Run, run
from radixpoint.accelerator.dataflows.row_stationary import RowStationary
from radixpoint.accelerator.dataflows.unrolled import Unrolled

Dataflow = RowStationary | InnerProduct | Unrolled
"""By ``kind`` in a target file."""

__all__ = [
    "Dataflow",
    "InnerProduct",
    "LayerRun",
    "Move",
    "RowStationary",
    "Run",
    "Unrolled",
    "run",
]
