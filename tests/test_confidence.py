"""With confidence, a limit holds on images that nobody looked at; by the promise's own arithmetic and by
simulation.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import networks
from radixpoint.arithmetic.elementary import exp, log2
from radixpoint.errors import DataError, DesignError
from radixpoint.measure.evaluate import evaluate
from radixpoint.measure.intervals import DropTest, _at_most, better_than_chance, drop
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize
from radixpoint.searching.criterion import Criterion
from radixpoint.searching.line import confident
from radixpoint.searching.task import search

pytestmark = pytest.mark.slow("it searches")


def test_the_distribution_of_a_drop_by_enumeration() -> None:
    """Three images, each lost with 0.3, gained with 0.1."""
    by_hand: dict[int, float] = {}
    for a in (1, -1, 0):
        for b in (1, -1, 0):
            for c in (1, -1, 0):
                p = math.prod({1: 0.3, -1: 0.1, 0: 0.6}[v] for v in (a, b, c))
                by_hand[a + b + c] = by_hand.get(a + b + c, 0) + p
    for total in range(-3, 4):
        expected = sum(p for value, p in by_hand.items() if value <= total)
        assert _at_most(total, 3, 0.3, 0.1) == pytest.approx(expected, abs=1e-12)


def pair(n: int, lost: int, gained: int) -> tuple[np.ndarray, np.ndarray]:
    kinds = np.array([1] * lost + [-1] * gained + [0] * (n - lost - gained))
    return kinds != -1, kinds != 1


@pytest.mark.parametrize(
    ("n", "lost", "gained"), [(200, 3, 1), (1000, 30, 22), (5000, 200, 190), (5000, 0, 0)]
)
def test_bound_and_test_agree(n: int, lost: int, gained: int) -> None:
    test = DropTest(*pair(n, lost, gained), 0.05)
    bound = test.bound()
    assert bound > drop(*pair(n, lost, gained))
    assert test.within(bound)
    assert not test.within(bound - 0.001)
    assert DropTest(*pair(n, lost, gained), 0.01).bound() > bound  # surer takes more room


def test_hardly_more_than_the_asymptotic_bound() -> None:
    """Exactness costs little: within a tenth of the normal approximation where that is good."""
    n, lost, gained = 5000, 250, 220
    normal = (lost - gained) / n + 1.645 * math.sqrt(
        (lost + gained) / n - ((lost - gained) / n) ** 2
    ) / math.sqrt(n)
    assert 100 * normal < DropTest(*pair(n, lost, gained), 0.05).bound() < 110 * normal


def test_the_test_errs_no_more_often_than_it_says() -> None:
    """Of drops of exactly the limit, 5 % or fewer pass for smaller ones; and small drops are recognized."""
    random = np.random.default_rng(0)
    for n, limit, disagree in ((500, 1.0, 0.03), (1000, 0.5, 0.02), (2000, 1.0, 0.2)):
        lost, gained = (disagree + limit / 100) / 2, (disagree - limit / 100) / 2
        passed = good = 0
        for _ in range(1500):
            kinds = random.choice([1, -1, 0], n, p=(lost, gained, 1 - disagree))
            passed += DropTest(kinds != -1, kinds != 1, 0.05).within(limit)
        assert passed / 1500 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)
        for _ in range(50):
            good += DropTest(*pair(n, 2, 2), 0.05).within(2.5)
        assert good == 50


def test_a_search_keeps_its_promise() -> None:
    """Simulated: at least 95 % of answers have a true drop within the limit; judged plainly, far fewer have.

    Designs of 2 to 16 bits lose more the shorter they are; each image is lost or gained independently.
    """
    random = np.random.default_rng(1)
    lengths, n, limit = list(range(2, 17)), 1000, 1.0
    drops = {w: 8.0 * 0.6 ** (w - 2) for w in lengths}
    kept = plainly = 0
    runs = 300
    for _ in range(runs):
        seen = {}
        for w in lengths:
            some = 0.02 + drops[w] / 100
            lost, gained = (some + drops[w] / 100) / 2, (some - drops[w] / 100) / 2
            kinds = random.choice([1, -1, 0], n, p=(lost, gained, 1 - some))
            seen[w] = (kinds != -1, kinds != 1)

        def judge(w: int, whole: bool, seen: dict[int, Any] = seen) -> tuple[Any, Any]:
            return None, "holds" if DropTest(seen[w][0], seen[w][1], 0.05).within(limit) else "fails"

        answer = confident(judge, lengths).word_length  # type: ignore[arg-type]
        kept += answer is None or drops[answer] <= limit
        held = [w for w in lengths if drop(*seen[w]) <= limit]
        plainly += drops[min(held)] <= limit
    assert kept / runs >= 0.95
    assert plainly / runs < 0.8


def test_the_line_stops_at_the_first_that_fails() -> None:
    asked: list[int] = []

    def judge(place: int, whole: bool) -> tuple[Any, Any]:
        asked.append(place)
        assert whole
        return None, "fails" if place == 3 else "holds"  # type: ignore[return-value]

    found = confident(judge, [1, 2, 3, 4, 5])  # type: ignore[arg-type]
    assert (found.word_length, asked) == (4, [5, 4, 3])


GRAPH = networks.balanced()
IMAGES, CALIBRATION = networks.labelled(GRAPH, 2000, 5), networks.labelled(GRAPH, 64, 6)


def test_search_with_confidence(tmp_path: Path) -> None:
    plain = search(GRAPH, IMAGES, CALIBRATION, tmp_path / "plain", Criterion(limit=2.0)).policies
    sure = Criterion(limit=2.0, confidence=0.95)
    found = search(GRAPH, IMAGES, CALIBRATION, tmp_path / "sure", sure).policies
    for name in ("joint", "separate"):
        assert plain[name].drop_bound is None
        assert found[name].drop < found[name].drop_bound <= 2.0
        assert found[name].multiplier_cost >= plain[name].multiplier_cost
        assert found[name].monotone
    # fixed order: from the longest down, until one fails, each on every image
    tried = found["joint"].tried
    assert [t.verdict for t in tried] == ["fails"] + ["holds"] * (len(tried) - 1)
    assert all(t.images == len(IMAGES) for t in tried)
    assert tried[1].word_length == found["joint"].word_length


def test_the_error_is_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two policies at 0.1: 0.05 each; of separate half for the convolutions, the rest by what they may be."""
    from radixpoint.searching.judge import Judge

    asked: dict[str, set[float | None]] = {}
    judge = Judge.judge

    def noted(self, text, design, whole=False, error=None):  # type: ignore[no-untyped-def]
        asked.setdefault(text.rsplit(" ", 2)[0], set()).add(error)
        return judge(self, text, design, whole, error)

    monkeypatch.setattr(Judge, "judge", noted)
    lengths = (6, 8, 10, 12)
    search(GRAPH, IMAGES.first(1000), CALIBRATION, tmp_path / "run", Criterion(limit=5.0, confidence=0.9),
           word_lengths=lengths, bn_start=12)  # fmt: skip
    (bn,) = (errors for text, errors in asked.items() if text.endswith(", bn"))
    for errors, expected in (
        (asked["joint"], 0.05),
        (asked["separate, bn 12, conv"], 0.025),
        (bn, 0.025 / len(lengths)),
    ):
        assert list(errors) == [pytest.approx(expected)]


def test_greedy_and_per_layer_with_confidence(tmp_path: Path) -> None:
    found = search(
        GRAPH, IMAGES, CALIBRATION, tmp_path / "run", Criterion(limit=4.0, confidence=0.95),
        policies=("greedy", "per-layer"), word_lengths=(6, 8, 10, 12),
    ).policies  # fmt: skip
    for details in found.values():
        assert details.drop_bound <= 4.0
    assert len(found["greedy"].conv_search) <= 14


def test_evaluate_with_confidence() -> None:
    network = quantize(GRAPH, networks.calibrated(GRAPH), Design.joint(8))
    found = evaluate(GRAPH, network, IMAGES, confidence=0.95)
    assert found.drop_bound is not None
    assert found.drop < found.drop_bound < found.drop_interval[1] + 0.2
    assert evaluate(GRAPH, network, IMAGES).drop_bound is None


@pytest.mark.parametrize("confidence", [0.3, 1.0, float("nan"), -1.0])
def test_confidences_that_cannot_be_meant(confidence: float) -> None:
    with pytest.raises(DesignError, match="confidence"):
        Criterion(confidence=confidence)


@pytest.mark.parametrize("limit", [-1.0, 100.0, float("nan"), float("inf")])
def test_limits_that_cannot_be_meant(limit: float) -> None:
    with pytest.raises(DesignError, match="limit"):
        Criterion(limit=limit)


def test_unknown_metrics() -> None:
    with pytest.raises(DesignError, match="metric 'f1'"):
        Criterion("f1")


# ---------------------------------------------------------------------------------------------- chance


def test_chance_by_hand() -> None:
    hits = np.array([True] * 3 + [False] * 7)  # of 10 at one in ten: 0.07
    assert not better_than_chance(hits, 0.1)
    assert better_than_chance(np.array([True] * 5 + [False] * 5), 0.1)  # 0.0016
    assert not better_than_chance(np.ones(10, bool), 1.0)  # whoever cannot miss knows nothing


def test_a_network_that_guesses_is_not_searched(tmp_path: Path) -> None:
    """Labels in another order: any number of bits would lose nothing."""
    from radixpoint.data import ImageSet

    shuffled = np.random.default_rng(0).permutation(IMAGES.labels)
    guessed = ImageSet("shuffled", IMAGES.pixels, shuffled, IMAGES.classes, IMAGES.preprocessing)
    with pytest.raises(DataError, match=r"cannot be told from guessing among 10 classes.*--at-chance"):
        search(GRAPH, guessed, CALIBRATION, tmp_path / "run", word_lengths=(8,), policies=("joint",))
    with pytest.warns(UserWarning, match="guessing"):
        search(
            GRAPH,
            guessed,
            CALIBRATION,
            tmp_path / "run",
            word_lengths=(8,),
            policies=("joint",),
            at_chance=True,
        )


def test_a_metric_that_cannot_fail(tmp_path: Path) -> None:
    n = networks.Net(0)
    graph = n.graph(n.fc(n.simple("flatten", n.conv("input", 2)), 288, 5))
    images = networks.images(20, 0, graph.shapes["input"], 5)
    with pytest.raises(DesignError, match="every answer would be right"):
        search(graph, images, images, tmp_path / "run", Criterion("top5"))


# --------------------------------------------------------------------------------------- elementary functions


def test_exp_and_log2() -> None:
    from fractions import Fraction

    x = np.concatenate([np.linspace(-700, 700, 4001), np.random.default_rng(0).normal(size=2000)])
    assert np.all(np.abs(exp(x) / np.exp(x) - 1) < 1e-15)
    assert exp(np.array([-800.0, 0.0])).tolist() == [0.0, 1.0]
    y = np.exp(x)
    assert np.all(np.abs(log2(y) - np.log2(y)) <= 4 * np.spacing(np.abs(np.log2(y))) + 1e-15)
    assert log2(2.0 ** np.arange(-30, 31)).tolist() == list(range(-30, 31))
    assert Fraction(float(exp(np.array([1.0]))[0])) - Fraction(math.e) < Fraction(1, 1 << 50)
