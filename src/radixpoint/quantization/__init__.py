"""From a graph, its ranges and a design to a network: equalize, choose, settle, lower, refine.

A user calls ``radixpoint.quantize``; ``radixpoint.quantization.quantize`` runs the passes in that order.
"""
