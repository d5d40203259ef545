"""Single steps with random formats, the widest and oddest among them, which networks seldom reach.

Every engine == reference on every tensor, and == exact rationals where the step rounds.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fast
import oracle
from radixpoint.arithmetic.formats import Overflow, Rounding, TensorFormat
from radixpoint.engines import ReferenceEngine
from radixpoint.errors import FormatError, GraphError
from radixpoint.ir.network import IntGraph, IntParameter, IntTensor, Step, derived_tensor, verify

CHANNELS = 3
GIVEN = settings(max_examples=400, deadline=None)


class Chain:
    """An IntGraph under construction, one step after the other."""

    def __init__(self, word: int, fraction: int, shape: tuple[int, ...]) -> None:
        form = TensorFormat(True, word, (fraction,))
        self.tensors = {"x": IntTensor(shape, form, form.min, form.max, "", None)}
        self.steps: list[Step] = []
        self.parameters: dict[str, IntParameter] = {}
        self.last = "x"

    def step(self, op: str, attributes: dict[str, Any] | None = None, to: TensorFormat | None = None,
             inputs: tuple[str, ...] | None = None, **parameters: IntParameter) -> None:  # fmt: skip
        name, inputs, attributes = f"{len(self.steps)}.{op}", inputs or (self.last,), attributes or {}
        keys = {role: f"{name}/{role}" for role in parameters}
        self.parameters |= {keys[role]: value for role, value in parameters.items()}
        sources = [self.tensors[i] for i in inputs]
        made = derived_tensor(op, attributes, sources, parameters, "", None, to)
        self.tensors[name] = made
        self.steps.append(Step(name, op, inputs, attributes, keys))
        self.last = name

    def cast(self, to: TensorFormat, rounding: str = "RND", overflow: str = "SAT") -> None:
        self.step(
            "cast", {"rounding": rounding, "overflow": overflow, "stream": len(self.steps), "seed": 9}, to
        )

    def closed(self) -> IntGraph:
        """The network: close with a cast if the result needs one, and verify."""
        if self.tensors[self.last].format.per_channel or self.steps[-1].op != "cast":
            self.cast(TensorFormat(True, 12, (2,)))
        graph = IntGraph("x", self.tensors, tuple(self.steps), self.last, self.parameters, {})
        verify(graph)
        return graph

    def check(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Close; compare every tensor."""
        graph = self.closed()
        names = list(self.tensors)
        expected = ReferenceEngine(graph).run(x, names)
        for engine_name, engine in fast.fast_engines(graph, 1):
            got = engine.run(x, names)
            for name in names:
                assert np.array_equal(expected[name], got[name]), (engine_name, name)
            assert np.array_equal(engine.run(x)[graph.output], expected[graph.output]), engine_name
        for name in names:
            assert expected[name].min() >= graph.tensors[name].low, name
            assert expected[name].max() <= graph.tensors[name].high, name
        return expected


def extremes(word: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Ends, values next to them, and random ones."""
    random = np.random.default_rng(seed)
    top = 1 << (word - 1)
    x = random.integers(-top, top, (6, *shape))
    x[0], x[1], x[2] = -top, top - 1, random.choice([-top, top - 1, 0], shape)
    x[3] = random.integers(-3, 4, shape).clip(-top, top - 1)
    return x


fractions = st.one_of(st.tuples(st.integers(-20, 45)), st.tuples(*[st.integers(-20, 45)] * CHANNELS))
words = st.integers(2, 32)


@GIVEN
@given(
    words, st.integers(-20, 45), words, fractions, st.sampled_from(Rounding), st.sampled_from(Overflow),
    st.integers(0, 9),
)  # fmt: skip
def test_cast(word, fraction, target, places, rounding, overflow, seed) -> None:  # type: ignore[no-untyped-def]
    x = extremes(word, (CHANNELS, 2, 2), seed)
    chain = Chain(word, fraction, (CHANNELS, 2, 2))
    to = TensorFormat(True, target, places)
    chain.cast(to, rounding.value, overflow.value)
    first = chain.last
    results = chain.check(x)
    if rounding is Rounding.STOCHASTIC:
        return
    for channel in range(CHANNELS):
        exact = [
            oracle.convert(
                Fraction(v) / Fraction(2) ** fraction, True, target, to.channel(channel).fraction_length,
                rounding.value, overflow.value,
            )
            for v in x[:, channel].ravel().tolist()
        ]  # fmt: skip
        assert results[first][:, channel].ravel().tolist() == exact


EDGE_WORDS = (2, 8, 12, 16, 23, 24, 25, 26, 32)
EDGE_SHIFTS = ((-30,), (-13,), (-12,), (-1,), (0,), (1,), (2,), (7,), (12,), (20,), (24,), (40,), (64,))
MIXED_SHIFTS = ((-1, 0, 1), (0, 1, 8), (-9, -2, 3), (-20, 1, 20), (1, 2, 3))


@pytest.mark.slow("every width, shift and mode")
@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("overflow", list(Overflow))
def test_casts_at_the_edges_of_the_carriers(rounding: Rounding, overflow: Overflow) -> None:
    """Where a float carrier is just wide enough, and just not: 24 bits, and shifts that differ by channel."""
    for word in EDGE_WORDS:
        x = extremes(word, (CHANNELS, 2, 2), word)
        x[4:] = (
            (1 << (word - 1))
            - 1
            - np.arange(2 * CHANNELS * 4).reshape(2, CHANNELS, 2, 2) % min(16, 1 << word)
        )
        x = x.clip(-(1 << (word - 1)), None)
        for target in EDGE_WORDS:
            for shifts in EDGE_SHIFTS + MIXED_SHIFTS:
                chain = Chain(word, 0, (CHANNELS, 2, 2))
                to = TensorFormat(True, target, tuple(-s for s in shifts))
                chain.cast(to, rounding.value, overflow.value)
                chain.check(x)


def parameter(word: int, places: tuple[int, ...], shape: tuple[int, ...], seed: int) -> IntParameter:
    top = 1 << (word - 1)
    data = np.random.default_rng(seed).integers(-top, top, shape)
    data.flat[0] = -top
    return IntParameter(data, TensorFormat(True, word, places))


narrow = st.one_of(st.tuples(st.integers(-5, 12)), st.tuples(*[st.integers(-5, 12)] * CHANNELS))


@GIVEN
@given(words, st.integers(-5, 12), words, narrow, words, narrow, narrow, st.integers(0, 9))
@example(2, 0, 30, (-5,), 2, (0, -4, 12), (12,), 0)  # a sum that 64 bits hold, but not with its rounding
def test_scale_offset_add(word, fraction, w1, f1, w2, f2, f3, seed) -> None:  # type: ignore[no-untyped-def]
    shape = (CHANNELS, 2, 2)
    chain = Chain(word, fraction, shape)
    try:
        chain.step("scale", factor=parameter(w1, f1, (CHANNELS, 1, 1), seed))
        chain.step("offset", value=parameter(w2, f2, (CHANNELS, 1, 1), seed + 1))
        chain.cast(TensorFormat(True, 31, f3), "RND_CONV")
        chain.step("add", inputs=(chain.last, "x"))
    except (FormatError, GraphError) as error:
        assert "bits" in str(error) or "64" in str(error)  # noqa: PT017
        return
    chain.check(extremes(word, shape, seed))


@settings(max_examples=150, deadline=None)
@given(
    words, words, st.integers(1, 3), st.sampled_from([1, 2, 4]), st.integers(0, 9), st.integers(1, 2),
    st.integers(1, 2), st.booleans(),
)  # fmt: skip
def test_conv(word, weights, kernel, groups, seed, stride, dilation, large) -> None:  # type: ignore[no-untyped-def]
    channels = 32 if large else 4
    shape = (channels, 6, 5)
    chain = Chain(word, 3, shape)
    window = {
        "strides": (stride, 1), "pads": (1, 0, 2, 1), "dilations": (dilation, dilation), "groups": groups,
    }  # fmt: skip
    try:
        chain.step(
            "conv", window, weight=parameter(weights, (2,), (4, channels // groups, kernel, kernel), seed)
        )
    except FormatError:
        return
    chain.check(extremes(word, shape, seed))


@settings(max_examples=100, deadline=None)
@given(words, st.integers(0, 9), st.sampled_from([m for m in Rounding if m is not Rounding.STOCHASTIC]))
def test_pools(word, seed, rounding) -> None:  # type: ignore[no-untyped-def]
    shape = (CHANNELS, 7, 6)
    window = {"kernel": (3, 2), "strides": (2, 1), "pads": (1, 1, 0, 1)}
    chain = Chain(word, 4, shape)
    chain.step("max_pool", window)
    chain.step("sum_pool", {**window, "pads": (0, 0, 0, 0)})
    divisor = IntParameter(np.array(6).reshape(1, 1, 1), TensorFormat(True, 4, (0,)))
    to = TensorFormat(True, 9, (5,))
    chain.step("divide", {"rounding": rounding.value, "overflow": "SAT"}, to, divisor=divisor)
    divided, total = chain.last, chain.steps[-1].inputs[0]
    results = chain.check(extremes(word, shape, seed))
    exact = [
        oracle.convert(Fraction(v, 6) / 16, True, 9, 5, rounding.value, "SAT")
        for v in results[total].ravel().tolist()
    ]
    assert results[divided].ravel().tolist() == exact


def test_windows_must_meet_the_image() -> None:
    chain = Chain(8, 0, (1, 5, 5))
    with pytest.raises(GraphError, match="empty"):
        chain.step("max_pool", {"kernel": (2, 2), "strides": (1, 1), "pads": (2, 0, 0, 0)})


def test_groups_of_different_sizes() -> None:
    """Sums of one group pass 2**53, those of the other do not: engines may carry them differently."""
    chain = Chain(32, 0, (2, 1, 3))
    wide = np.array([(1 << 29) - 1, 3, (1 << 21) + 1, 5]).reshape(4, 1, 1, 1)
    attributes = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 2}
    chain.step("conv", attributes, weight=IntParameter(wide, TensorFormat(True, 32, (0,))))
    x = np.array([[[[2**31 - 1, -(2**31), 2**31 - 5]], [[2**31 - 3, -(2**31) + 1, 7]]]])
    sums = chain.check(x)["0.conv"]
    assert int(np.abs(sums[:, :2]).max()) > 2**53 > int(np.abs(sums[:, 2:]).max())
    assert (sums % 2).any(), "float64 holds even ones: the test shows nothing"


@pytest.mark.parametrize("overflow", ["SAT", "SAT_SYM", "WRAP"])
@pytest.mark.parametrize("word", [2, 7, 8, 9, 12, 16, 17, 31])
def test_casts_between_signs(word: int, overflow: str) -> None:
    """Signed to unsigned and back, without a shift and with one: negative values have no place there."""
    for longer in (-1, 0, 1):
        for shift in (-1, 0, 1):
            if not 1 <= word + longer <= 32:
                continue
            chain = Chain(word, 3, (2, 3, 2))
            chain.cast(TensorFormat(False, word + longer, (3 - shift,)), "RND", overflow)
            chain.cast(TensorFormat(True, word, (3,)), "RND", overflow)
            found = chain.check(extremes(word, (2, 3, 2), word))
            assert found["0.cast"].min() == 0
