"""Binary points by the error of a layer's output: against every pair of them in exact rationals, by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import networks
import oracle
from radixpoint.errors import DesignError
from radixpoint.measure.calibrate import Statistics
from radixpoint.measure.floating import FloatingEngine
from radixpoint.quantization.design import Design
from radixpoint.quantization.patches import sampled_patches
from radixpoint.quantization.quantize import Quantizer
from radixpoint.quantization.rules import choose_formats
from radixpoint.quantization.rules.output_error import (
    OPERAND_CANDIDATES,
    WEIGHT_CANDIDATES,
    best_fractions,
    operand_candidates,
)
from radixpoint.quantization.rules.question import Question
from radixpoint.quantization.sites import Formats, Key, Site, affine_parameters, sites, stored_parameters


def site(role: str, values: np.ndarray, word_length: int, signed: bool = True) -> Site:
    """``values``: (channels, ...)."""
    kind = "weights" if role == "weight" else "activations"
    return Site(("c", role), "conv", kind, word_length, Statistics.of(values), True, signed)


def exact_error(
    w: np.ndarray, x: np.ndarray, widths: tuple[int, int], points: tuple[int, int], signed: bool
) -> Fraction:
    """Squared error of one output channel over patches (count, inputs), weights (inputs,)."""
    total = Fraction(0)
    for patch in x.tolist():
        difference = Fraction(0)
        for a, b in zip(w.tolist(), patch, strict=True):
            qa = oracle.convert(Fraction(a), True, widths[0], points[0], "RND", "SAT")
            qb = oracle.convert(Fraction(b), signed, widths[1], points[1], "RND", "SAT")
            difference += Fraction(a) * Fraction(b) - qa * qb / Fraction(2) ** sum(points)
        total += difference**2
    return total


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("by_channel", [False, True])
def test_against_every_pair(seed: int, by_channel: bool) -> None:
    random = np.random.default_rng(seed)
    signed = bool(seed % 2)
    w = random.normal(size=(3, 4)).astype(np.float32)
    x = random.standard_t(2, size=(6, 4)).astype(np.float32)  # a few large values, which may saturate
    x = x if signed else np.abs(x)
    factors = random.uniform(0.1, 3, 3)
    weight, operand = site("weight", w, 3), site("operand", x.T, 4, signed)
    tried = operand_candidates(operand)
    found, fractions = best_fractions(weight, w.astype(float), operand, tried, x[None], by_channel, factors)
    assert fractions.shape == ((3,) if by_channel else (1,))

    def error(point: int, weights: list[int]) -> float:
        return float(
            sum(
                Fraction(factors[c]) ** 2 * exact_error(w[c], x, (3, 4), (f, point), signed)
                for c, f in enumerate(weights)
            )
        )

    own = [weight.statistics, weight.statistics.pooled][not by_channel]
    first = [
        int(np.floor(np.log2(3.5 / max(-low * 3.5 / 4.5, high))))
        for low, high in zip(own.low, own.high, strict=True)
    ]
    ranges = [range(f, f + WEIGHT_CANDIDATES) for f in first]
    choices = itertools.product(*ranges) if by_channel else ((f,) * 3 for f in ranges[0])
    everything = {(p, tuple(c)): error(p, list(c)) for c in choices for p in tried}
    best = min(everything.values())
    got = tuple(np.broadcast_to(fractions, 3).tolist())
    assert everything[found, got] == pytest.approx(best, rel=1e-4)
    assert everything[found, got] < max(everything.values())


def test_one_large_value_by_hand() -> None:
    """Operands in 4 bits, many of 1/4 and one of 9: the format that holds 9 (F = -1) loses all the others."""
    x = np.full((101, 1), 0.25, np.float32)
    x[0] = 9
    w = np.ones((1, 1), np.float32)
    weight, operand = site("weight", w, 4), site("operand", x.T, 4)
    assert operand_candidates(operand)[0] == -1
    one = np.ones(1)
    few, _ = best_fractions(weight, w.astype(float), operand, range(-1, 3), x[None, :2], False, one)
    assert few == -1  # of two patches the large one counts: 8 for 9 costs 1, 7 for 9 would cost 4
    huge = np.repeat(x[1:], 100, 0)[None]
    many, _ = best_fractions(weight, w.astype(float), operand, range(-1, 3), huge, False, one)
    assert many == 2


def test_errors_count_by_the_factor_behind() -> None:
    """A channel that batch normalization makes large decides about a shared binary point."""
    w = np.array([[0.9], [0.11]], np.float32)
    x = np.ones((4, 1), np.float32)
    weight, operand = site("weight", w, 3), site("operand", x.T, 8)

    def chosen(*factors: float) -> int:
        _, found = best_fractions(
            weight, w.astype(float), operand, operand_candidates(operand), x[None], False, np.array(factors)
        )
        return int(found[0])

    assert chosen(1, 0) == 1  # 1.0 for 0.9; one place more saturates at 0.75
    assert chosen(0, 1) == 3  # 0.125 for 0.11


def test_patches_are_those_of_the_network() -> None:
    graph = networks.mixed()
    images = networks.images(6, 1, graph.shapes["input"]).inputs(0, 6)
    multiplied = {x.name: x.inputs[0] for x in graph.layers if x.op in ("conv", "fc")}
    engine = FloatingEngine(graph, sorted(set(multiplied.values()) - {graph.input}))

    def operands(batch: np.ndarray) -> dict[str, np.ndarray]:
        tensors = {graph.input: batch, **engine.run(batch)}
        return {layer: tensors[name] for layer, name in multiplied.items()}

    found = sampled_patches(graph, images, operands, count=60)
    names = [layer.name for layer in graph.layers if layer.op in ("conv", "fc")]
    assert list(found) == names
    results = FloatingEngine(graph, names).run(images)
    for layer in graph.layers:
        if layer.name in found:
            weight, seen = graph.parameter(layer, "weight"), found[layer.name]
            assert seen.shape[1] <= 60
            rows = weight.reshape(len(seen), len(weight) // len(seen), -1)
            outputs = np.einsum("gpk,gok->pgo", seen, rows).reshape(seen.shape[1], -1)
            bias = graph.parameter(layer, "bias") if "bias" in layer.parameters else 0
            places = np.moveaxis(results[layer.name], 1, -1).reshape(-1, len(weight))
            for one in outputs + bias:
                assert np.abs(places - one).max(1).min() < 1e-4


def wrong(
    places: dict[Key, Site],
    formats: Formats,
    layer: str,
    reals: tuple[np.ndarray, np.ndarray],
    moved: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Squared error of each output channel, of weights (groups, outputs, inputs) and patches (groups, count,
    inputs), with binary points so many places from those of ``formats``."""
    rounded = []
    for role, real, more in zip(("weight", "operand"), reals, moved, strict=True):
        form = places[layer, role].format((0,)).channel(0)
        fractions = np.array(formats[layer, role].fraction_lengths) + more
        if len(fractions) > 1:
            fractions = fractions.reshape(len(real), -1, 1)
        scaled = np.floor(np.ldexp(real, fractions) + 0.5)
        rounded.append(np.ldexp(np.clip(scaled, form.min, form.max), -fractions))
    (w, x), (v, q) = reals, rounded
    return np.asarray(((q @ v.transpose(0, 2, 1) - x @ w.transpose(0, 2, 1)) ** 2).sum(1).ravel())


@pytest.mark.parametrize("form", ["affine", "staged", "folded"])
@pytest.mark.parametrize("scope", ["tensor", "channel"])
def test_rule_sqnr_lowers_the_error_of_outputs(form: str, scope: str) -> None:
    """Layer by layer the least of all that are tried, channels weighed by the batch normalization behind."""
    graph = networks.mixed()
    random, parameters = np.random.default_rng(1), dict(graph.parameters)
    for layer in graph.layers:
        behind = graph.consumers(layer.name)
        if layer.op == "conv" and [reader.op for reader in behind] == ["batch_norm"]:
            # small weights before large factors
            weight, gamma = layer.parameters["weight"], behind[0].parameters["gamma"]
            k = random.integers(-4, 5, len(parameters[gamma]))
            parameters[weight] = np.ldexp(parameters[weight], -k[:, None, None, None])
            parameters[gamma] = np.ldexp(parameters[gamma], 2 * k)
    graph = replace(graph, parameters=parameters)
    quantizer = Quantizer(graph, networks.calibrated(graph))
    chosen, start = (
        quantizer.formats(
            Design.separate(4, 12, batch_norm=form, binary_point={"scope": scope, "rule": rule})
        )
        for rule in ("sqnr", "max")
    )
    design = Design.separate(4, 12, batch_norm=form, binary_point={"scope": scope, "rule": "max"})
    stored = stored_parameters(graph, design)
    places = {one.key: one for one in sites(graph, quantizer.ranges, design, stored)}
    differ = 0
    for name, seen in quantizer.patches.items():
        values = stored[name, "weight"].values.reshape(len(seen), -1, seen.shape[2])
        reals = (values, seen.astype(float))
        behind, factors = graph.consumers(name), np.ones(values.shape[0] * values.shape[1])
        if [layer.op for layer in behind] == ["batch_norm"] and form != "folded":
            factors, _ = affine_parameters(graph, behind[0])

        tried = [
            wrong(places, start, name, reals, moved) @ factors**2
            for moved in itertools.product(range(WEIGHT_CANDIDATES), range(OPERAND_CANDIDATES))
        ]
        best = wrong(places, chosen, name, reals) @ factors**2
        assert best <= min(tried) * (1 + 1e-5)
        assert scope == "channel" or best >= min(tried) * (1 - 1e-5)
        differ += int(best < tried[0])
    assert differ


def test_refusals() -> None:
    for scope in ("network", "class"):
        with pytest.raises(DesignError, match=f"sqnr with scope {scope}"):
            Design.separate(4, 8, binary_point={"scope": scope, "rule": "sqnr"})
    graph = networks.residual()
    design = Design.separate(4, 8, binary_point={"rule": "sqnr"})
    stored = stored_parameters(graph, design)
    with pytest.raises(ValueError, match="needs patches"):
        choose_formats(Question(graph, networks.calibrated(graph), design, stored))
