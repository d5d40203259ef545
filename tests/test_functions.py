"""Tables of functions, entry by entry, against 1,100 bits and a rounding written anew."""

from __future__ import annotations

from collections.abc import Iterator

import mpmath
import numpy as np
import pytest

import fast
import networks
from radixpoint.arithmetic import functions
from radixpoint.arithmetic.formats import FixedFormat, Overflow, Rounding
from radixpoint.arithmetic.functions import FUNCTIONS, tabulated
from radixpoint.engines import quantize_images
from radixpoint.errors import FormatError, GraphError
from radixpoint.ir.network import IntParameter
from radixpoint.measure.floating import FloatingEngine
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize

NUMBERS = {"celu": (0.7,), "elu": (1.3,), "hard_sigmoid": (float(np.float32(1 / 6)), 0.5),
           "power": (0.3, 1.0, -0.75), "selu": (1.67, 1.05)}  # fmt: skip
MODES = [mode for mode in Rounding if mode is not Rounding.STOCHASTIC]


@pytest.fixture(autouse=True)
def precise() -> Iterator[None]:
    functions.tabulated.cache_clear()
    with mpmath.workprec(1100):
        yield


def rounded(value, mode: Rounding) -> int:  # type: ignore[no-untyped-def]
    """One rounding of a real number; what is as near as nothing to a half or an integer is there."""
    down, up = mpmath.floor, mpmath.ceil
    match mode:
        case Rounding.TRN:
            return int(down(value))
        case Rounding.TRN_ZERO:
            return int(down(value) if value >= 0 else up(value))
        case Rounding.RND:
            return int(down(value + 0.5))
        case Rounding.RND_MIN_INF:
            return int(up(value - 0.5))
        case Rounding.RND_INF:
            return int(down(value + 0.5) if value >= 0 else up(value - 0.5))
        case Rounding.RND_ZERO:
            return int(up(value - 0.5) if value >= 0 else down(value + 0.5))
        case _:
            return int(mpmath.nint(value))


def expected(name: str, source: FixedFormat, result: FixedFormat, mode: Rounding) -> list[int]:
    entries = []
    for stored in range(source.min, source.max + 1):
        x = mpmath.ldexp(mpmath.mpf(stored), -source.fraction_length)
        value = FUNCTIONS[name].exact(x, *NUMBERS.get(name, ()))
        if mpmath.isinf(value):
            entries.append(result.max if value > 0 else result.min)
            continue
        value = mpmath.ldexp(value, result.fraction_length)
        halves = mpmath.nint(2 * value)
        if abs(2 * value - halves) < mpmath.ldexp(1, -650 + result.fraction_length + 1):
            value = halves / 2
        entries.append(min(max(rounded(value, mode), result.min), result.max))
    return entries


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_entry_is_rounded_once(name: str) -> None:
    random = np.random.default_rng(len(name))
    for _ in range(6):
        source, result = (
            FixedFormat(bool(random.integers(2)), int(random.integers(2, most)), int(random.integers(-3, 11)))
            for most in (8, 15)
        )
        mode = MODES[random.integers(len(MODES))]
        got = tabulated(name, NUMBERS.get(name, ()), source, result, mode, Overflow.SAT)
        assert got.tolist() == expected(name, source, result, mode), (name, source, result, mode)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_machine_decides_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that are off by a hundred units in the last place give the same tables."""
    row, forms = FUNCTIONS[name], (FixedFormat(True, 9, 5), FixedFormat(True, 12, 8))
    for mode in (Rounding.RND, Rounding.TRN, Rounding.RND_CONV):
        right = tabulated(name, NUMBERS.get(name, ()), *forms, mode, Overflow.SAT)
        functions.tabulated.cache_clear()
        random = np.random.default_rng(0)

        def sloppy(x, *numbers, row=row, random=random):  # type: ignore[no-untyped-def]
            short, rest, *terms = row.fast(x, *numbers)
            return short, rest * (1 + random.uniform(-1, 1, np.shape(rest)) * 2.0**-46), *terms

        made = functions.Function(name, row.numbers, sloppy, row.exact)
        monkeypatch.setitem(functions.FUNCTIONS, name, made)
        assert np.array_equal(tabulated(name, NUMBERS.get(name, ()), *forms, mode, Overflow.SAT), right)
        monkeypatch.setitem(functions.FUNCTIONS, name, row)
        functions.tabulated.cache_clear()


def test_a_planted_error_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sigmoid that is off by more than is allowed for gives another table."""
    row = FUNCTIONS["sigmoid"]
    wrong = functions.Function(
        "sigmoid", (), lambda x: (np.asarray(sum(row.fast(x)) + 1e-3), np.zeros_like(x)), row.exact
    )
    monkeypatch.setitem(functions.FUNCTIONS, "sigmoid", wrong)
    forms = FixedFormat(True, 7, 4), FixedFormat(True, 14, 12)
    got = tabulated("sigmoid", (), *forms, Rounding.RND, Overflow.SAT)
    assert got.tolist() != expected("sigmoid", *forms, Rounding.RND)


def test_what_a_table_cannot_do() -> None:
    form = FixedFormat(True, 8, 4)
    with pytest.raises(FormatError, match="expected no draws and no wrapping"):
        tabulated("exp", (), form, form, Rounding.STOCHASTIC, Overflow.SAT)
    with pytest.raises(FormatError, match="expected no draws and no wrapping"):
        tabulated("exp", (), form, form, Rounding.RND, Overflow.WRAP)


@pytest.mark.parametrize("bits", [4, 9, 16, 24])
def test_a_network_of_functions(bits: int) -> None:
    """Operands of a table have 16 bits at most; every engine agrees; 16 bits are close to float."""
    graph = networks.varied()
    network = quantize(graph, networks.calibrated(graph), Design.separate(bits, bits))
    inputs = networks.images(3, 5, graph.shapes[graph.input]).inputs(0, 3)
    stored = quantize_images(network, inputs)
    fast.agree(network, stored)
    tables = [network.arrays(step)["table"] for step in network.steps if step.op == "lookup"]
    assert {len(table) for table in tables} == {1 << min(bits, 16)}
    if bits == 16:
        real = FloatingEngine(graph).run(inputs)[graph.output]
        logits = network.run(stored)[network.output] * 2.0 ** -network.logit_fraction_length()
        assert np.abs(logits - real).max() < 0.02


def test_a_table_that_does_not_hold_every_integer() -> None:
    graph = networks.varied()
    network = quantize(graph, networks.calibrated(graph), Design.separate(8, 8))
    step = next(step for step in network.steps if step.op == "lookup")
    key = step.parameters["table"]
    short = IntParameter(network.parameters[key].data[:-1], network.parameters[key].format)
    from dataclasses import replace

    from radixpoint.ir.network import verify

    with pytest.raises(GraphError, match="lookup of"):
        verify(replace(network, parameters={**network.parameters, key: short}))


def test_rule_loss_where_there_are_no_classes() -> None:
    """A network whose result is an image of one channel: answers are compared by their squared error."""
    n = networks.Net(3)
    graph = n.graph(n.function(n.conv(n.simple("relu", n.bn(n.conv("input", 6))), 1, bias=True), "tanh"))
    ranges = networks.calibrated(graph)
    inputs = networks.images(8, 2, graph.shapes[graph.input]).inputs(0, 8)
    real = FloatingEngine(graph).run(inputs)[graph.output]
    errors = []
    for rule in ("max", "loss"):
        network = quantize(graph, ranges, Design.joint(5, binary_point={"rule": rule, "scope": "tensor"}))
        result = network.run(quantize_images(network, inputs))[network.output]
        errors.append(np.square(result * 2.0 ** -network.logit_fraction_length() - real).mean())
    assert 0 < errors[1] < errors[0]
