"""The two intermediate representations, the table of operators behind them, and the file of a network."""

from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.ir.graph import Graph, Layer, build_graph, verify_graph
from radixpoint.ir.network import IntGraph, IntParameter, IntTensor, Step, verify

__all__ = [
    "Graph",
    "IntGraph",
    "IntParameter",
    "IntTensor",
    "Layer",
    "Step",
    "TensorFormat",
    "build_graph",
    "verify",
    "verify_graph",
]
