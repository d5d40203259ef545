"""Metrics by hand, their intervals by simulation, and searches under metrics of one's own."""

from __future__ import annotations

import math
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

import networks
from radixpoint.data import ImageSet, Preprocessing
from radixpoint.errors import DataError, DesignError
from radixpoint.measure import metrics, pairs
from radixpoint.measure.calibrate import calibrate
from radixpoint.measure.detection import MeanAveragePrecision, overlaps_of
from radixpoint.measure.evaluate import evaluate
from radixpoint.measure.floating import FloatingEngine
from radixpoint.measure.metrics import (
    Agreement,
    CrossEntropy,
    MeanIoU,
    Score,
    SquaredError,
    TopK,
    Total,
    check_metric,
    find_metric,
    ranks,
    torch_metric,
)
from radixpoint.measure.outcomes import NO_OUTCOMES, Outcomes
from radixpoint.measure.pairs import Hits, Scores, Totals, t_quantile
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize
from radixpoint.searching.criterion import Criterion
from radixpoint.searching.result import Result
from radixpoint.searching.task import search

# -------------------------------------------------------------------------------------------- outcomes


def test_outcomes_of_rows_that_differ_in_length() -> None:
    rows = [np.array([1.0, 2.0]), np.array([]), np.array([3.0])]
    o = Outcomes.of(rows)
    assert len(o) == 3
    assert [row.tolist() for row in o.rows] == [[1, 2], [], [3]]
    assert [row.tolist() for row in o.chosen(np.array([2, 0])).rows] == [[3], [1, 2]]
    twice = NO_OUTCOMES.joined(o.first(2)).joined(o)
    assert [row.tolist() for row in twice.rows] == [[1, 2], [], [1, 2], [], [3]]
    again = Outcomes.decoded(twice.encoded())
    assert again.digest == twice.digest
    with pytest.raises(ValueError, match="different lengths"):
        _ = o.table


def test_outcomes_that_are_damaged() -> None:
    outcomes = Outcomes.of(np.arange(12).reshape(4, 3))
    data = outcomes.encoded()
    noticed = 0
    for place in range(len(data)):
        try:
            found = Outcomes.decoded(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        except Exception:  # any will do: a cache takes it for damage
            noticed += 1
        else:
            assert found.digest == outcomes.digest  # a bit that the compression does not use
    assert noticed >= len(data) - 3
    assert Outcomes.decoded(data).digest == outcomes.digest
    with pytest.raises(ValueError, match="do not fit"):
        Outcomes(np.zeros(3), np.array([2, 1], np.int64)).checked()


# --------------------------------------------------------------------------------------------- by hand


def test_ranks_and_hits() -> None:
    o = ranks(np.array([[1.0, 3, 2], [5, 4, 6]]), np.array([2, 1]))
    assert o.table.tolist() == [[1, 1], [2, 2]]
    assert TopK(2).hits(o).tolist() == [True, False]
    assert find_metric("top3") == TopK(3)


def test_cross_entropy_by_hand() -> None:
    logits = np.array([[0.0, math.log(3)], [0, 0]])
    o = CrossEntropy().outcomes([logits], np.array([1, 0]))
    assert o.table[:, 0] == pytest.approx([math.log(4 / 3), math.log(2)], rel=1e-14)
    pair = CrossEntropy().pair(o, Outcomes.of(o.table + 1))
    assert (pair.drop, pair.before) == pytest.approx((1.0, (math.log(4 / 3) + math.log(2)) / 2))


def test_agreement_counts_the_best_class_alone() -> None:
    one = Agreement().outcomes([np.array([[1.0, 2], [2, 1], [0, 5], [1, 0]])], None)
    other = Agreement().outcomes([np.array([[0.0, 9], [1, 2], [4, 5], [1, 0]])], None)
    pair = Agreement().pair(one, other)
    assert (pair.before, pair.after, pair.drop) == (100.0, 75.0, 25.0)


def test_squared_error_and_its_ratio() -> None:
    target = np.zeros((2, 1, 2, 2))
    result = target + np.array([0.1, 0.01]).reshape(2, 1, 1, 1)
    o = SquaredError().outcomes([result], target)
    assert o.table[:, 0] == pytest.approx([1e-2, 1e-4])
    assert SquaredError(1.0).pair(o, o).before == pytest.approx(30.0)  # 20 and 40 dB
    assert find_metric("psnr@255").pair(o, o).before == pytest.approx(30 + 20 * math.log10(255))
    with pytest.raises(DataError, match=r"targets of \(1, 2\): expected those of the result, \(1, 2, 2\)"):
        SquaredError().outcomes([result], target[..., 0])


def test_mean_iou_by_hand() -> None:
    """Class 0: 1 of 2 places; class 1: 1 of 2; class 2 nowhere; one place does not count."""
    mask = np.array([[[0, 1], [0, 255]]])
    scores = np.zeros((1, 3, 2, 2))
    scores[0, 0, 0, 0] = scores[0, 1, 0, 1] = scores[0, 1, 1, 0] = scores[0, 2, 1, 1] = 1
    o = MeanIoU().outcomes([scores], mask)
    assert o.table.tolist() == [[1, 1, 0, 2, 2, 0]]
    assert MeanIoU().pair(o, o).before == 50.0
    one_channel = MeanIoU().outcomes([np.array([[[[-1.0, 1], [1, 1]]]])], mask)
    assert one_channel.table.tolist() == [[1, 1, 2, 2]]
    with pytest.raises(DataError, match=r"other numbers than 0..2 and 255"):
        MeanIoU().outcomes([scores], mask + 3)


def test_mean_average_precision_by_hand() -> None:
    """Two boxes of class 0: found surely, then a wrong one, then the other: precisions 1, 1/2, 2/3."""
    boxes = [np.array([[0, 0, 0, 10, 10], [0, 20, 20, 30, 30]]), np.zeros((0, 5))]
    found = [
        np.array([[0, 0.9, 0, 0, 10, 10], [0, 0.5, 20, 20, 30, 30]]),
        np.array([[0, 0.7, 5, 5, 9, 9]]),
    ]
    metric = MeanAveragePrecision(lambda results: found, (0.5,))
    o = metric.outcomes([np.zeros((2, 1))], boxes)
    # at recalls 0 .. 0.5 (51 of 101) the best precision is 1, beyond it is 2/3
    assert metric.pair(o, o).before == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    weights = np.array([1, 0])  # without the image of the wrong one
    pair = metric.pair(o, o)
    assert isinstance(pair, Totals)
    assert pair.score(o, weights) == 100.0
    twice = [np.array([[0, 0.9, 0, 0, 10, 10], [0, 0.8, 0, 0, 10, 10]]), np.zeros((0, 6))]
    o = MeanAveragePrecision(lambda results: twice, (0.5,)).outcomes([np.zeros((2, 1))], boxes)
    assert o.rows[0].tolist() == [2, 2, 0, 0, 0, 0.9, 1, 0, 0.8, 0]  # a box is found once
    assert overlaps_of(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 1, 3, 3]])) == pytest.approx(1 / 7)


def test_average_precision_against_torchmetrics() -> None:
    """Random detections, COCO's overlaps; torchmetrics' own needs pycocotools, so its formula is by hand."""
    random = np.random.default_rng(3)
    images = 12
    boxes, found = [], []
    for _ in range(images):
        low = random.uniform(0, 50, (4, 2))
        own = np.concatenate([random.integers(0, 3, (4, 1)), low, low + random.uniform(5, 30, (4, 2))], 1)
        boxes.append(own)
        near = own[:, 1:] + random.normal(0, 2, (4, 4))
        found.append(np.concatenate([own[:, :1], random.uniform(0, 1, (4, 1)), near], 1))
    metric = MeanAveragePrecision(lambda results: found)
    o = metric.outcomes([np.zeros((images, 1))], boxes)
    expected = []
    for one in range(3):
        total = sum(int((own[:, 0] == one).sum()) for own in boxes)
        for least in metric.overlaps:
            marks = []
            for own, told in zip(boxes, found, strict=True):
                mine, free = own[own[:, 0] == one][:, 1:], [True] * int((own[:, 0] == one).sum())
                for d in sorted(told[told[:, 0] == one].tolist(), key=lambda d: -d[1]):
                    shares = [
                        overlaps_of(np.array([d[2:]]), b[None])[0, 0] if f else -1
                        for b, f in zip(mine, free, strict=True)
                    ]
                    best = int(np.argmax(shares)) if shares else -1
                    hit = best >= 0 and shares[best] >= least
                    if hit:
                        free[best] = False
                    marks.append((-d[1], hit))
            hits = np.cumsum([hit for _, hit in sorted(marks, key=lambda m: m[0])])
            precision, recall = hits / np.arange(1, len(hits) + 1), hits / total
            at = [precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 101)]
            expected.append(np.mean(at))
    assert metric.pair(o, o).before == pytest.approx(100 * np.mean(expected))


def test_quantiles_of_student() -> None:
    """As SciPy has them, from 9 degrees of freedom on: what the fewest images have."""
    from scipy import stats

    for freedom in (9, 10, 30, 120, 5000):
        for z in (-1.959964, 0.0, 1.644854, 1.959964, 2.575829, 3.290527):
            expected = stats.t.ppf(stats.norm.cdf(z), freedom)
            assert t_quantile(z, freedom) == pytest.approx(expected, rel=4e-4, abs=1e-9)


# --------------------------------------------------------------------------------------- simulations


def _real(random: np.random.Generator) -> tuple[Scores, float]:
    """Skewed scores, correlated between the two networks; the true drop is 0.3."""
    base = random.exponential(1, 400)
    return Scores(base, base - random.exponential(0.3, 400), True), 0.3


def _total(random: np.random.Generator) -> tuple[Totals, float]:
    """Two classes of unlike size; 5 % and 10 % of places lost."""
    inside = np.stack([random.binomial(100, 0.8, 300), random.binomial(20, 0.6, 300)], 1)
    lost = np.stack([random.binomial(inside[:, 0], 0.05), random.binomial(inside[:, 1], 0.10)], 1)
    union = np.tile([100, 20], (300, 1))
    before, after = (np.concatenate([x, union], 1) for x in (inside, inside - lost))
    pair = MeanIoU().pair(Outcomes.of(before), Outcomes.of(after))
    assert isinstance(pair, Totals)
    return pair, 100 * (0.8 * 0.05 + 0.6 * 0.10) / 2


@pytest.mark.parametrize(("make", "runs"), [(_real, 1000), (_total, 150)])
def test_intervals_cover_as_often_as_they_say(make: Any, runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """95 % intervals hold the true drop, and bounds with 5 % error lie above it, as often as that."""
    monkeypatch.setattr(pairs, "RESAMPLES", 500)
    random = np.random.default_rng(1)
    covered = above = 0
    for _ in range(runs):
        pair, true = make(random)
        low, high = pair.interval()
        covered += low <= true <= high
        above += pair.bound(0.05) >= true
    spread = 3 * math.sqrt(0.05 * 0.95 / runs)
    assert abs(covered / runs - 0.95) <= spread + 0.005
    assert above / runs >= 0.95 - spread - 0.01


def test_an_interval_that_is_too_narrow_is_seen() -> None:
    """The simulation fails where intervals are of two thirds of their width."""
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        pair, true = _real(random)
        low, high = pair.interval(1.31)
        covered += low <= true <= high
    assert covered / 1000 < 0.95 - 3 * math.sqrt(0.05 * 0.95 / 1000)


def test_relative_limits() -> None:
    hits = Hits(np.arange(100) < 80, np.arange(100) < 77)
    assert hits.drop == 3.0
    for percent, holds in ((3.7, False), (3.8, True)):  # 3 of 80 is 3.75 %
        limit = Criterion("top1", percent, None, True).allowed(hits, None)
        assert (hits.drop <= limit) is holds
    errors = Scores(np.full(9, 2.0), np.full(9, 2.1), higher=False)
    for percent, holds in ((4.9, False), (5.1, True)):
        limit = Criterion("mse", percent, None, True).allowed(errors, None)
        assert (errors.drop <= limit) is holds
    sure = Criterion("top1", 5.0, None, True).allowed(hits, 0.05)
    assert sure == pytest.approx(0.05 * 72.28, abs=0.01)  # 80 of 100: at least 72.28 %, 19 times of 20
    with pytest.raises(DataError, match="expected a positive score"):
        Criterion("own:x", 5.0, None, True).allowed(Scores(np.full(9, -2.0), np.full(9, -2.0), True), None)
    with pytest.raises(DesignError, match=r"a limit of 100\.0 percent"):
        Criterion("mse", 100.0, None, True)
    assert Criterion("mse", 100.0).limit == 100.0


# ----------------------------------------------------------------------------------------------- names


def brightness(results: NDArray[Any], targets: Any) -> NDArray[Any]:
    """A score of one's own."""
    return np.asarray(results.reshape(len(results), -1).mean(1))


def test_names_and_objects() -> None:
    found = find_metric("test_metrics:brightness")
    assert isinstance(found, Score)
    assert found.name == "test_metrics:brightness"
    assert isinstance(find_metric(brightness), Score)
    assert find_metric(found) is found
    assert find_metric(lambda results, targets: results).kept != found.kept
    for asked, message in (
        ("nowhere:x", "No module named 'nowhere'"),
        ("test_metrics:nothing", "has no attribute 'nothing'"),
        ("test_metrics:GRAPH", "expected a function"),
        (7, "expected a function"),
    ):
        with pytest.raises(DesignError, match=message):
            find_metric(asked)
    assert check_metric("nowhere:x") == "nowhere:x"  # nothing is imported to read a file


def test_metrics_of_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an entry point; nothing is loaded to know that the name may be used."""
    point = EntryPoint("bright", "test_metrics:brightness", "radixpoint.metrics")
    monkeypatch.setattr(metrics, "entry_points", lambda group: [point] if group == metrics.GROUP else [])
    assert check_metric("bright") == "bright"
    found = find_metric("bright")
    assert isinstance(found, Score)
    assert found.function is brightness
    with pytest.raises(DesignError, match="metric 'dark'"):
        find_metric("dark")


def _made(factor: float) -> Any:
    return lambda results, targets: results.max(1) * factor


class Scaled:
    """A function with a state."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, results: Any, targets: Any, more: float = 0.0) -> Any:
        return results.max(1) * self.factor + more

    def method(self, results: Any, targets: Any) -> Any:
        return results * self.factor


def test_no_cache_takes_one_function_for_another() -> None:
    space: dict[str, Any] = {}
    for name, code in (("a", "r.max(1) * 1.0"), ("b", "r.max(1) * 2.0"), ("c", "r.min(1) * 1.0")):
        exec(f"{name} = lambda r, t: {code}", space)
    apart = [
        *(partial(Scaled(1), more=1.0), partial(Scaled(1), more=2.0), partial(brightness)),
        *(_made(1.0), _made(2.0), Scaled(1), Scaled(2), Scaled(1).method, Scaled(2).method),
        *(lambda r, t: r.max(1), lambda r, t: r.min(1)),
        *(space[name] for name in "abc"),
    ]
    assert len({Score(one).kept for one in apart}) == len(apart)
    assert Score(_made(3.0)).kept == Score(_made(3.0)).kept
    assert Score(partial(Scaled(1), more=1.0)).kept == Score(apart[0]).kept
    unknown = Score(partial(Scaled(1), more=iter([])))
    assert unknown.kept == unknown.kept != Score(partial(Scaled(1), more=iter([]))).kept


def test_targets_that_differ_have_other_digests() -> None:
    images = networks.images(4, 0, GRAPH.shapes["input"], 2)
    plain = [None, [True, False, True, True], [1, 0, 1, 1], [1.0, 0, 1, 1], list("abba")]
    kinds = [*plain, [[1], [0], [1], [1]], [np.array([1, 2])] * 4, [{"a": 1}] * 4, [{"a": 2}] * 4]
    assert len({images.with_targets(kind).digest for kind in kinds}) == len(kinds)
    narrow = np.arange(4, dtype=np.uint8)
    assert images.with_targets(narrow).digest == images.with_targets(narrow.astype(np.int64)).digest
    with pytest.raises(DataError, match="a target of kind object"):
        _ = images.with_targets([object()] * 4).digest


def test_too_few_images_have_no_interval(judged: ImageSet) -> None:
    for metric, least in (("mse", 10), (Total(lambda r, t: r, lambda o, w: 0.0, label="t"), 30)):
        with pytest.raises(DataError, match=f"expects at least {least}"):
            find_metric(metric).check(GRAPH, judged.first(least - 1))
        find_metric(metric).check(GRAPH, judged.first(least))


def test_a_confidence_that_a_bootstrap_cannot_tell(judged: ImageSet, tmp_path: Path) -> None:
    total = Total(lambda r, t: np.abs(r - t).mean((1, 2, 3))[:, None], lambda o, w: 0.0, label="t")
    with pytest.raises(DesignError, match="by 2000 resamples"):
        search(
            GRAPH,
            judged,
            judged.first(20),
            tmp_path / "r",
            Criterion(limit=1.0, confidence=0.99),
            metric=total,
        )
    assert not (tmp_path / "r").exists()


def test_functions_that_give_something_else() -> None:
    results = [np.zeros((3, 2))]
    for function, message in (
        (lambda r, t: np.zeros(2), r"float64 of \(2,\): expected one number for each of 3 images"),
        (lambda r, t: np.array(["a"] * 3), "expected one number"),
        (lambda r, t: np.full(3, np.nan), "NaN or infinity"),
    ):
        with pytest.raises(DataError, match=message):
            Score(function).outcomes(results, None)
    with pytest.raises(DataError, match="gives 2 rows"):
        Total(lambda r, t: np.zeros((2, 1)), lambda o, w: 0.0).outcomes(results, None)


def test_hits_of_a_function_are_exact_and_numbers_are_not() -> None:
    right = Score(lambda r, t: r[:, 0] > 0)
    o = right.outcomes([np.array([[1.0], [-1], [2]])], None)
    assert isinstance(right.pair(o, o), Hits)
    real = Score(lambda r, t: (r[:, 0] > 0).astype(float))
    o = real.outcomes([np.array([[1.0], [-1], [2]])], None)
    assert isinstance(real.pair(o, o), Scores)


def test_metrics_of_torchmetrics() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(40, 5)), random.integers(0, 5, 40)
    theirs = torchmetrics.classification.MulticlassF1Score(5, average="macro")
    metric = torch_metric(theirs)
    o = metric.outcomes([logits], labels)
    import torch

    theirs.reset()
    theirs.update(torch.from_numpy(logits), torch.from_numpy(labels))
    assert metric.pair(o, o).before == pytest.approx(float(theirs.compute()), rel=1e-6)
    assert find_metric(theirs).name == metric.name != torch_metric(torchmetrics.MeanSquaredError()).name
    with pytest.raises(DesignError, match="expected sums, which add up"):
        torch_metric(torchmetrics.classification.MulticlassAUROC(5))


# --------------------------------------------------------------------------------------------- searches

n = networks.Net(5)
GRAPH = n.graph(
    n.conv(n.simple("relu", n.bn(n.conv("input", 8, 3, pads=(1, 1, 1, 1)))), 3, 3, pads=(1, 1, 1, 1))
)
"""An image in, an image out."""


def _images(count: int, seed: int, targets: Any = None) -> ImageSet:
    return networks.images(count, seed, GRAPH.shapes["input"], 2).with_targets(targets)


@pytest.fixture(scope="module")
def judged() -> ImageSet:
    own = networks.images(520, 1, GRAPH.shapes["input"], 2)
    results = FloatingEngine(GRAPH).run(own.inputs(0, len(own)))[GRAPH.output]
    noise = np.random.default_rng(2).normal(0, 0.1, results.shape)
    return own.with_targets((results + noise).astype(np.float32))


def test_a_regression_is_searched_under_its_own_metric(judged: ImageSet, tmp_path: Path) -> None:
    calibration = networks.images(40, 9, GRAPH.shapes["input"], 2)
    result = search(
        GRAPH, judged, calibration, tmp_path / "run", Criterion("psnr", 0.5), word_lengths=range(4, 13)
    )
    again = Result.load(tmp_path / "run" / "result.json")
    assert again.encoded() == result.encoded()
    joint, separate = result.policies["joint"], result.policies["separate"]
    assert joint.drop is not None
    assert joint.drop <= 0.5
    assert isinstance(separate.conv, int)
    assert isinstance(joint.word_length, int)
    assert separate.conv <= joint.word_length
    network = quantize(GRAPH, calibrate(GRAPH, calibration), Design.joint(joint.word_length))
    assert msgspec.json.decode(network.metadata["preprocessing"], type=Preprocessing) == judged.preprocessing
    found = evaluate(GRAPH, network, judged, "psnr")
    assert found.drop == pytest.approx(joint.drop)
    assert found.score == pytest.approx(found.float_score - found.drop)


def test_a_function_and_a_total_are_searched(judged: ImageSet, tmp_path: Path) -> None:
    calibration = networks.images(40, 9, GRAPH.shapes["input"], 2)

    def error(results: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.abs(results - targets).mean((1, 2, 3)))

    by_function = search(
        *(GRAPH, judged, calibration, tmp_path / "a", Criterion(limit=5.0, relative=True), ["joint"]),
        word_lengths=range(4, 12),
        metric=Score(error, higher=False, label="error"),
    )
    total = Total(lambda r, t: np.abs(r - t).mean((1, 2, 3))[:, None],
                  lambda o, w: float(w @ o.table[:, 0] / w.sum()), higher=False, label="total")  # fmt: skip
    as_total = search(
        *(GRAPH, judged, calibration, tmp_path / "b", Criterion(limit=5.0, relative=True), ["joint"]),
        word_lengths=range(4, 12),
        metric=total,
    )
    a, b = by_function.policies["joint"], as_total.policies["joint"]
    assert a.word_length == b.word_length
    assert a.score == pytest.approx(b.score)
    assert any(trial.images < len(judged) for trial in a.tried)
    assert all(trial.images == len(judged) for trial in b.tried)  # totals say nothing early
    with pytest.raises(DataError, match="images without targets"):
        search(GRAPH, calibration.with_targets(None), calibration, tmp_path / "c", Criterion("mse"))
