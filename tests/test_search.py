"""Intervals, judging, bisection, and that a search killed at any moment loses nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import networks
from radixpoint.data import ImageSet
from radixpoint.errors import DataError, DesignError, RunError
from radixpoint.measure.evaluate import summarize
from radixpoint.measure.intervals import drop, drop_interval
from radixpoint.measure.metrics import TopK, ranks
from radixpoint.quantization.design import Design
from radixpoint.searching import strategies
from radixpoint.searching.allocate import Constraints
from radixpoint.searching.criterion import Criterion
from radixpoint.searching.line import Found, smallest
from radixpoint.searching.result import Result
from radixpoint.searching.task import search
from radixpoint.searching.watcher import Watcher

pytestmark = pytest.mark.slow("it searches")


def test_outcomes_by_hand() -> None:
    logits = np.array([[3, 3, 1, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5, 6], [9, 9, 9, 9, 9, 9, 9]])
    o = ranks(logits, np.array([1, 2, 5]))
    assert TopK(1).hits(o).tolist() == [False, False, False]  # a tie goes to the lower index
    assert TopK(5).hits(o).tolist() == [True, True, False]
    assert o.table[:, 1].tolist() == [0, 6, 0]


def test_interval_by_hand() -> None:
    """12 lost, 4 gained of 100: d = 8/102, half = 1.96 sqrt((18/102 - d^2) / 102)."""
    reference = np.array([True] * 12 + [False] * 4 + [True] * 84)
    candidate = np.array([False] * 12 + [True] * 4 + [True] * 84)
    low, high = drop_interval(reference, candidate)
    middle, half = 8 / 102, 1.959964 * ((18 / 102 - (8 / 102) ** 2) / 102) ** 0.5
    assert (low, high) == pytest.approx((100 * (middle - half), 100 * (middle + half)), rel=1e-6)
    assert drop(reference, candidate) == 8.0


def test_interval_covers() -> None:
    """In 4,000 simulated experiments the 95 % interval holds the true drop in 93.5 to 97.5 %."""
    generator = np.random.default_rng(0)
    for lost, gained in ((0.03, 0.02), (0.10, 0.05), (0.005, 0.005)):
        covered = 0
        for _ in range(4000):
            kind = generator.choice(3, 400, p=(lost, gained, 1 - lost - gained))
            low, high = drop_interval(kind != 1, kind != 0)
            covered += low <= 100 * (lost - gained) <= high
        assert 0.935 <= covered / 4000 <= 0.997, (lost, gained, covered)


def test_an_unpaired_interval_would_be_wider() -> None:
    """What pairing buys: networks that agree almost everywhere have a narrow interval."""
    reference = np.random.default_rng(0).random(2000) < 0.4
    candidate = reference.copy()
    candidate[:10] ^= True
    low, high = drop_interval(reference, candidate)
    assert high - low < 1.0 < 2 * 1.96 * (2 * 0.24 / 2000) ** 0.5 * 100


@given(st.lists(st.booleans(), min_size=15, max_size=15), st.booleans())
def test_smallest_finds_a_boundary(pattern: list[bool], early_error: bool) -> None:
    """Whatever holds: the answer holds on every image and the word length below it was seen to fail."""
    lengths = list(range(2, 17))
    asked: list[int] = []

    def judge(w: int, whole: bool):  # type: ignore[no-untyped-def]
        asked.append(w)
        wrong = early_error and not whole and w == 9  # the first images say otherwise than all
        return w, "holds" if pattern[w - 2] != wrong else "fails"

    found = smallest(judge, lengths)
    if found.word_length is None:
        assert not pattern[-1] or early_error
        return
    assert pattern[found.word_length - 2]
    assert found.word_length == 2 or found.tried[found.word_length - 1][1] == "fails"
    if found.word_length < 16:
        assert found.monotone == (found.tried[found.word_length + 1][1] == "holds")
    assert len(asked) <= 15


@given(st.lists(st.booleans(), min_size=15, max_size=15), st.integers(1, 4))
def test_smallest_looks_below(pattern: list[bool], in_vain: int) -> None:
    """Where a criterion is not monotone: so many below the answer fail, each by its own verdict."""
    lengths = list(range(2, 17))

    def judge(w: int, whole: bool) -> Any:
        return w, "holds" if pattern[w - 2] else "fails"

    found = smallest(judge, lengths, in_vain=in_vain)
    if found.word_length is None:
        assert not pattern[-1]
        return
    below = [w for w in lengths if found.word_length - in_vain <= w < found.word_length]
    assert pattern[found.word_length - 2]
    assert not any(pattern[w - 2] for w in below)
    assert set(below) <= set(found.tried)
    if pattern != sorted(pattern) and found.monotone:  # what it saw was in order
        seen = [pattern[w - 2] for w in sorted(found.tried)]
        assert seen == sorted(seen)


def test_smallest_of_a_monotone_criterion_is_exact_and_quick() -> None:
    for threshold in range(2, 18):
        asked: list[int] = []

        def judge(w: int, whole: bool, threshold: int = threshold, asked: list = asked):  # type: ignore[no-untyped-def,type-arg]
            asked.append(w)
            return w, "holds" if w >= threshold else "fails"

        found = smallest(judge, list(range(2, 17)))
        assert found.word_length == (threshold if threshold <= 16 else None)
        assert found.monotone
        assert len(asked) <= 7


GRAPH = networks.balanced()
IMAGES, CALIBRATION = networks.labelled(GRAPH, 2000, 5), networks.labelled(GRAPH, 64, 6)


class Counting(Watcher):
    def __init__(self) -> None:
        self.fresh = self.known = self.stages = 0

    def stage(self, text: str, images: int, images_left: int) -> None:
        self.stages += 1

    def judged(self, text, evaluation, verdict, cached) -> None:  # type: ignore[no-untyped-def]
        self.known += cached
        self.fresh += not cached


def test_the_labels_are_varied() -> None:
    assert np.bincount(IMAGES.labels, minlength=10).max() < 800


def test_search_and_its_result(tmp_path: Path) -> None:
    first = Counting()
    result = search(GRAPH, IMAGES, CALIBRATION, tmp_path / "run", Criterion(limit=2.0), watcher=first)
    assert result == Result.load(tmp_path / "run" / "result.json")
    joint, separate = result.policies["joint"], result.policies["separate"]
    assert result.floating.top1 == 100.0
    assert joint.drop <= 2.0
    assert joint.drop_interval[0] <= joint.drop <= joint.drop_interval[1]
    assert joint.top1 == pytest.approx(100 - joint.drop)
    assert separate.conv <= joint.word_length
    assert separate.relative_cost == separate.multiplier_cost / joint.multiplier_cost
    assert any(t.images < len(IMAGES) for t in joint.tried), "nothing was stopped early"
    below = [t for t in joint.tried if t.word_length == joint.word_length - 1]
    assert below[0].verdict == "fails"
    for name in ("joint", "separate"):
        design = Design.load(tmp_path / "run" / name / "design.json")
        assert design.classes["conv"].weights == (joint.word_length if name == "joint" else separate.conv)
        assert (tmp_path / "run" / name / "network.safetensors").exists()
    # once more, in the same folder: everything is known, nothing changes
    again = Counting()
    assert search(GRAPH, IMAGES, CALIBRATION, tmp_path / "run", Criterion(limit=2.0), watcher=again) == result
    assert (again.fresh, again.stages) == (0, 0)
    assert first.fresh > 5


def test_grid(tmp_path: Path) -> None:
    result = search(
        GRAPH,
        IMAGES.first(600),
        CALIBRATION,
        tmp_path / "run",
        word_lengths=(6, 8, 10),
        bn_start=10,
        grid=True,
        policies=("separate",),
    )
    assert [(c.conv, c.bn) for c in result.grid] == [(c, b) for c in (6, 8, 10) for b in (6, 8, 10)]
    assert all(c.images == 600 for c in result.grid)


def test_the_criterion_is_a_parameter(tmp_path: Path) -> None:
    loose = search(GRAPH, IMAGES, CALIBRATION, tmp_path / "a", Criterion("top5", 5.0), policies=("joint",))
    tight = search(GRAPH, IMAGES, CALIBRATION, tmp_path / "b", Criterion("top1", 0.5), policies=("joint",))
    assert loose.policies["joint"].word_length < tight.policies["joint"].word_length


def test_no_word_length_holds(tmp_path: Path) -> None:
    result = search(GRAPH, IMAGES, CALIBRATION, tmp_path / "run", word_lengths=(2, 3))
    assert result.policies["joint"].word_length is None
    assert result.policies["separate"].conv is None


def test_cache_is_keyed_by_content(tmp_path: Path) -> None:
    """Other images in the same cache do not get the first ones' results."""
    arguments = {"word_lengths": (8,), "policies": ("joint",), "cache": tmp_path / "cache"}
    search(GRAPH, IMAGES, CALIBRATION, tmp_path / "a", **arguments)
    watcher = Counting()
    other = ImageSet(
        "random", IMAGES.pixels[::-1].copy(), IMAGES.labels[::-1].copy(), IMAGES.classes, IMAGES.preprocessing
    )
    search(GRAPH, other, CALIBRATION, tmp_path / "b", watcher=watcher, **arguments)
    assert watcher.fresh > 0
    same = ImageSet(
        "renamed", IMAGES.pixels.copy(), IMAGES.labels.copy(), IMAGES.classes, IMAGES.preprocessing
    )
    watcher = Counting()
    search(GRAPH, same, CALIBRATION, tmp_path / "c", watcher=watcher, **arguments)
    assert watcher.fresh == 0


def test_bad_searches(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="no run folder"):
        search(GRAPH, IMAGES, CALIBRATION, tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="no run folder"):
        search(GRAPH, IMAGES, CALIBRATION, tmp_path / "file")
    with pytest.raises(RunError, match="cannot be made"):
        search(GRAPH, IMAGES, CALIBRATION, "/proc/nowhere/run")
    with pytest.raises(DesignError, match="expected some of"):
        search(GRAPH, IMAGES, CALIBRATION, tmp_path / "run", policies=("both",))
    with pytest.raises(DesignError, match="expected 2"):
        search(GRAPH, IMAGES, CALIBRATION, tmp_path / "run", word_lengths=(1, 2))
    with pytest.raises(DesignError, match="scope"):
        search(GRAPH, IMAGES, CALIBRATION, tmp_path / "run", binary_point={"scope": "layer"})
    with pytest.raises(DataError, match="the network takes"):
        search(GRAPH, networks.images(5, 0, (3, 9, 9)), CALIBRATION, tmp_path / "run")
    for policy in ("codebook", "per-layer"):  # the policy that was asked for
        with pytest.raises(DesignError, match=f"policy {policy} at 2 bits.*scope"):
            search(
                GRAPH, IMAGES, CALIBRATION, tmp_path / "run", policies=(policy,), binary_point={"scope": "x"}
            )
    assert (tmp_path / "other" / "thesis.tex").read_text() == "precious"
    assert not (tmp_path / "run").exists() or not (tmp_path / "run" / "result.json").exists()


def test_summaries_compare_the_same_images() -> None:
    reference = ranks(np.eye(10, dtype=np.int64), np.arange(10))
    assert summarize(reference, reference.first(4), TopK(1)).images == 4


def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    """Searches of the same network at the same time, from nothing: all end, and agree."""
    folders = [tmp_path / name for name in ("a", "b", "c")]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SEARCH, str(Path(__file__).parent), str(folder), str(tmp_path / "cache")],
            stderr=subprocess.PIPE,
        )
        for folder in folders
    ]
    assert [(process.communicate()[1], process.returncode) for process in running] == [(b"", 0)] * 3
    results = [(folder / "result.json").read_bytes() for folder in folders]
    assert results[0] == results[1] == results[2]
    assert not list(tmp_path.rglob("*.partial"))


SEARCH = """
import sys
sys.path.insert(0, sys.argv[1])
import test_search as t
cache = sys.argv[3] if len(sys.argv) > 3 else None
t.search(t.GRAPH, t.IMAGES, t.CALIBRATION, sys.argv[2], t.Criterion(limit=1.0), cache=cache)
"""


def test_killed_at_ten_random_moments(tmp_path: Path) -> None:
    """SIGKILL ten times, then let it finish: the same result.json, byte for byte, as undisturbed."""
    here = str(Path(__file__).parent)

    def start(folder: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SEARCH, here, str(folder)])

    began = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    duration = time.monotonic() - began
    chance = random.Random(7)
    kills = 0
    folder = tmp_path / "killed"
    fresh = True
    for attempt in range(200):
        process, began = start(folder), time.monotonic()
        try:
            process.wait(chance.uniform(0.25, 0.9) * duration)  # from the start of the interpreter on
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills, fresh = kills + 1, False
        if kills >= 10:
            break
        if (folder / "result.json").exists():  # finished too soon: begin anew elsewhere, keep counting
            assert (folder / "result.json").read_bytes() == (tmp_path / "whole" / "result.json").read_bytes()
            if fresh:  # the machine was busier when the whole run was timed
                duration = min(duration, time.monotonic() - began)
            folder, fresh = tmp_path / f"killed-{attempt}", True
    assert kills == 10
    assert start(folder).wait() == 0
    assert (folder / "result.json").read_bytes() == (tmp_path / "whole" / "result.json").read_bytes()
    for name in ("joint/design.json", "separate/network.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_images_that_serve_twice_are_warned_of(tmp_path: Path) -> None:
    """In the result and, where nobody watches, by Python's warnings; not of sets that are apart."""
    graph = networks.balanced()
    images, other = networks.labelled(graph, 300, 1), networks.images(64, 2, graph.shapes["input"])
    asked = {"policies": ["joint"], "word_lengths": (8, 9)}
    with pytest.warns(UserWarning, match="300 of 300 images are calibration images too"):
        result = search(graph, images, images, tmp_path / "a", **asked)
    assert result.overlap == {"images, calibration": 300}
    with pytest.warns(UserWarning, match="300 held-out images are searched images too"):
        result = search(graph, images, other, tmp_path / "b", held_out=images, **asked)
    assert result.overlap["held_out, images"] == 300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search(graph, images, other, tmp_path / "c", **asked)


def test_a_cheaper_pair_keeps_what_the_target_ruled_out_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each of the three lines that were searched, in the entry of the pair that the last one found."""
    seen = SimpleNamespace(
        score=0.9, top1=0.9, top5=None, drop=0.1, drop_interval=(0.0, 0.2), drop_bound=None, agreement=99.0
    )
    lines = {
        "separate, bn 16, conv": (4, {"conv 3": "first"}),
        "separate, conv 4, bn": (12, {"bn 5": "second"}),
        "separate, conv 6, bn": (6, {"bn 4": "third"}),
    }

    def along(judge: object, text: str, *line: object, **options: object) -> Found:
        word, ruled_out = lines[text]
        return Found(word, seen, True, {}, ruled_out)

    monkeypatch.setattr(strategies, "_along", along)
    judge = SimpleNamespace(
        images=[1], images_left=0, price=lambda d: d.classes["conv"].weights + 10 * d.classes["bn"].weights
    )
    space = strategies.Space(networks.residual(), (4, 6), 16, {}, "multipliers", Constraints())
    answer = strategies.TwoStages("separate", space).run(judge, None)
    assert (answer.found.conv, answer.found.bn) == (6, 6)
    assert answer.found.ruled_out == {"conv 3": "first", "bn 5": "second", "bn 4": "third"}
