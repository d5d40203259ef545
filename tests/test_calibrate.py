"""Statistics of tensors: what the rules for binary points look at."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import networks
from radixpoint.measure import calibrate as module
from radixpoint.measure.calibrate import BINS, PER_OCTAVE, Ranges, Statistics, calibrate
from radixpoint.measure.floating import FloatingEngine
from radixpoint.quantization.design import Design
from radixpoint.quantization.rules.statistic import fractions

UNUSUAL = [-60, -40, 30, 60, 100]


def values(seed: int = 0, channels: int = 3) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.standard_t(3, (channels, 500)) * np.array([[1.0], [0.1], [4.0]])).astype(np.float32)


def test_bins_by_hand() -> None:
    """1 is the first of its octave, 22 octaves up, and 1.999 the last; 2**-23 and 0 count as zero."""
    seen = Statistics.of(np.array([[1, 1.999, -1, 0, 2.0**-23, -(2.0**-21)]], np.float32))
    side = BINS // 2
    found = {int(i): int(seen.counts[0, i]) for i in np.flatnonzero(seen.counts[0])}
    one = 22 * PER_OCTAVE
    assert found == {side + one: 1, side + one + 7: 1, one: 1, side: 2, PER_OCTAVE: 1}
    assert (seen.low[0], seen.high[0], seen.unit) == (-1, np.float32(1.999), 0)


@pytest.mark.parametrize("places", UNUSUAL)
@pytest.mark.parametrize("rule", ["max", "mse", "percentile"])
def test_rules_choose_the_same_at_any_scale(rule: str, places: int) -> None:
    """Nothing is lost of values far larger, or far smaller, than networks have."""
    design = Design.separate(8, 8, binary_point={"rule": rule, "percentile": 99.5})
    x = values()
    for one in (Statistics.of(x), Statistics.of(x).pooled):
        usual = fractions(one, 6, design.binary_point)
        scaled = Statistics.of(np.ldexp(x, places))
        moved = fractions(scaled.pooled if len(one.low) == 1 else scaled, 6, design.binary_point)
        assert (moved == usual - places).all()


@pytest.mark.parametrize("places", [0, *UNUSUAL])
def test_parts_join_to_the_whole(places: int) -> None:
    """In any order, whatever unit each was seen in."""
    x = np.ldexp(values(), places)
    parts = [x[:, :100], np.ldexp(x[:, 100:200], -30), x[:, 200:300] * 0, np.ldexp(x[:, 300:], 8)]
    whole = Statistics.of(np.concatenate(parts, 1))
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)):
        joined = Statistics.of(parts[order[0]])
        for number in order[1:]:
            joined = joined.joined(Statistics.of(parts[number]))
        assert joined.unit == whole.unit
        assert np.array_equal(joined.low, whole.low)
        assert np.array_equal(joined.high, whole.high)
        assert np.array_equal(joined.counts, whole.counts)


def test_ranges_are_kept_whole(tmp_path: Path) -> None:
    graph = networks.residual()
    large = replace(
        graph,
        parameters={
            **graph.parameters,
            "conv0.weight": graph.parameters["conv0.weight"] * np.float32(2.0**40),
        },
    )
    ranges = calibrate(large, networks.images(40))
    assert ranges.tensors["conv0"].unit > 0
    ranges.save(tmp_path / "r.npz")
    read = Ranges.load(tmp_path / "r.npz")
    assert read.digest == ranges.digest
    assert read.tensors.keys() == ranges.tensors.keys()
    for name, seen in ranges.tensors.items():
        again = read.tensors[name]
        assert again.unit == seen.unit
        for part in ("low", "high", "counts"):
            assert np.array_equal(getattr(again, part), getattr(seen, part))


def test_as_many_images_at_a_time_as_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ranges, whether a batch is one image or all."""
    graph = networks.residual()
    images = networks.labelled(graph, 20, 3)
    whole = calibrate(graph, images)
    image = 4 * sum(math.prod(graph.shapes[layer.name]) for layer in graph.layers)
    sizes: list[int] = []
    run = FloatingEngine.run

    def noted(engine: FloatingEngine, inputs: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        sizes.append(len(inputs))
        return run(engine, inputs)

    monkeypatch.setattr(FloatingEngine, "run", noted)
    for most, batches in ((0, [1] * 20), (7 * image, [7, 7, 6])):
        monkeypatch.setattr(module, "_BATCH_BYTES", most)
        sizes.clear()
        found = calibrate(graph, images)
        assert sizes[:-1] == batches  # then the samples
        for name, seen in whole.tensors.items():
            for field in ("low", "high", "counts"):
                assert np.array_equal(getattr(found.tensors[name], field), getattr(seen, field))
