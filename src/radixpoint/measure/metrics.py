"""Metrics: what is kept of each image, how it becomes a score, and how two networks are compared by it.

A metric is an object. It sees the network's results as real numbers, and each image's target, which may be
anything: a class, a mask, boxes, an array. Those that are built in are in ``METRICS``; ``find_metric`` takes
names, functions and objects of one's own.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.elementary import exp, log2
from radixpoint.data import ImageSet
from radixpoint.errors import DataError, DesignError
from radixpoint.ir.graph import Graph
from radixpoint.measure.identity import identity, name_of
from radixpoint.measure.outcomes import Outcomes, Reals
from radixpoint.measure.pairs import Hits, Pair, Scores, Totals

Outputs = Sequence[Reals]
"""Results of a network, each (images, ...), in the network's order."""
Targets = Any
"""Of some images: an array, or a sequence, with one entry an image."""
Prepared = TypeVar("Prepared")

BATCH = 250
"""Images between two looks at the interval."""
GROUP = "radixpoint.metrics"
"""Entry points that name metrics."""
IGNORED = 255
"""A place of a mask that does not count."""
_LN2 = 0.6931471805599453


@runtime_checkable
class Metric(Protocol):
    """What a network is judged by."""

    @property
    def name(self) -> str:
        """As it is asked for, and as ``result.json`` has it."""
        ...

    @property
    def kept(self) -> str:
        """Names what ``outcomes`` keeps: metrics with the same share what was evaluated."""
        ...

    @property
    def unit(self) -> str:
        """Of scores and drops: "points", "dB", or "" for none."""
        ...

    def check(self, graph: Graph, images: ImageSet) -> None:
        """See that it can judge the network by the images.

        Raises:
            DataError, DesignError, ModelError: it cannot.
        """
        ...

    def outcomes(self, outputs: Outputs, targets: Targets) -> Outcomes:
        """What is kept of some images.

        Raises:
            DataError: targets that it does not take.
        """
        ...

    def pair(self, reference: Outcomes, candidate: Outcomes) -> Pair:
        """Two networks on the same images."""
        ...


FEW_SCORES, FEW_TOTALS = 10, 30
"""Images below which no interval of such scores means anything."""


def check_enough(name: str, images: ImageSet, least: int) -> None:
    """See that there are images enough for an interval.

    Raises:
        DataError: there are not.
    """
    if len(images) < least:
        raise DataError(
            f"{images.source}: {len(images)} images: metric {name} expects at least {least} for an interval"
        )


# ----------------------------------------------------------------------------------------- classes


def ranks(logits: NDArray[Any], labels: NDArray[np.int64]) -> Outcomes:
    """(rank of the label, best class) of each image. Among equal logits the lower class index ranks first.

    Args:
        logits: (images, classes).
        labels: (images,).
    """
    own = np.take_along_axis(logits, labels[:, None], 1)
    earlier = np.arange(logits.shape[1])[None] < labels[:, None]
    rank = (logits > own).sum(1) + ((logits == own) & earlier).sum(1)
    return Outcomes.of(np.stack([rank, logits.argmax(1)], 1))


@dataclass(frozen=True)
class TopK:
    """Whether the label is among the ``k`` best classes."""

    k: int
    kept = "classes"
    unit = "points"

    @property
    def name(self) -> str:
        return f"top{self.k}"

    def check(self, graph: Graph, images: ImageSet) -> None:
        images.check(graph.shapes[graph.input], graph.classes)
        if graph.classes <= self.k:
            raise DesignError(
                f"metric {self.name} of a network with {graph.classes} outputs: every answer would be right"
            )

    def outcomes(self, outputs: Outputs, targets: Targets) -> Outcomes:
        return ranks(outputs[0], targets)

    def hits(self, outcomes: Outcomes) -> NDArray[np.bool_]:
        """By image."""
        return outcomes.table[:, 0] < self.k if len(outcomes) else np.zeros(0, bool)

    def pair(self, reference: Outcomes, candidate: Outcomes) -> Pair:
        return Hits(self.hits(reference), self.hits(candidate))


@dataclass(frozen=True)
class Agreement:
    """Whether the best class is that of the float network; images need no labels."""

    name = "agreement"
    kept = "answers"
    unit = "points"

    def check(self, graph: Graph, images: ImageSet) -> None:
        images.check_shape(graph.shapes[graph.input])
        if graph.classes < 2:
            raise DesignError("metric agreement of a network with one output: every answer would agree")

    def outcomes(self, outputs: Outputs, targets: Targets) -> Outcomes:
        return Outcomes.of(outputs[0].argmax(1)[:, None])

    def pair(self, reference: Outcomes, candidate: Outcomes) -> Pair:
        same = (reference.table == candidate.table).all(1)
        return Hits(np.ones(len(same), bool), same)


@dataclass(frozen=True)
class CrossEntropy:
    """Negative logarithm of the probability (softmax) of the label, in nats; less is better."""

    name = "cross-entropy"
    kept = "cross-entropy"
    unit = "nats"

    def check(self, graph: Graph, images: ImageSet) -> None:
        check_enough(self.name, images, FEW_SCORES)
        images.check(graph.shapes[graph.input], graph.classes)

    def outcomes(self, outputs: Outputs, targets: Targets) -> Outcomes:
        logits = outputs[0].astype(np.float64)
        over = logits - logits.max(1, keepdims=True)
        own = np.take_along_axis(over, targets[:, None], 1)[:, 0]
        return Outcomes.of((_LN2 * log2(exp(over).sum(1)) - own)[:, None])

    def pair(self, reference: Outcomes, candidate: Outcomes) -> Pair:
        return Scores(reference.table[:, 0], candidate.table[:, 0], higher=False)


# --------------------------------------------------------------------------------- images, masks


def _arrays(name: str, targets: Targets, shape: tuple[int, ...]) -> Reals:
    """Targets of the shape of the results.

    Raises:
        DataError: they are not.
    """
    if targets is None:
        raise DataError(f"metric {name}: images without targets: expected an array for each")
    try:
        found = np.asarray(targets, np.float64)
    except (TypeError, ValueError):
        raise DataError(
            f"metric {name}: targets that are no arrays of one shape: expected those of {shape[1:]}"
        ) from None
    if not np.isfinite(found).all():
        raise DataError(f"metric {name}: a target that is NaN or infinite: expected numbers")
    if found.shape != shape:
        raise DataError(
            f"metric {name}: targets of {found.shape[1:]}: expected those of the result, {shape[1:]}"
        )
    return found


@dataclass(frozen=True)
class SquaredError:
    """Mean squared error of the first result against an array; or the peak signal-to-noise ratio made of it.

    Attributes:
        peak: largest value of a target, for the ratio in dB; None for the error itself.
    """

    peak: float | None = None

    @property
    def name(self) -> str:
        if self.peak is None:
            return "mse"
        return "psnr" if self.peak == 1 else f"psnr@{self.peak:g}"

    @property
    def kept(self) -> str:
        return "mse"

    @property
    def unit(self) -> str:
        return "" if self.peak is None else "dB"

    def check(self, graph: Graph, images: ImageSet) -> None:
        images.check_shape(graph.shapes[graph.input])
        check_enough(self.name, images, FEW_SCORES)
        _arrays(self.name, images.target(0, 1), (1, *graph.shapes[graph.output]))

    def outcomes(self, outputs: Outputs, targets: Targets) -> Outcomes:
        errors = (outputs[0] - _arrays(self.name, targets, outputs[0].shape)) ** 2
        return Outcomes.of(errors.reshape(len(errors), -1).mean(1)[:, None])

    def pair(self, reference: Outcomes, candidate: Outcomes) -> Pair:
        before, after = reference.table[:, 0], candidate.table[:, 0]
        if self.peak is None:
            return Scores(before, after, higher=False)
        return Scores(self._ratio(before), self._ratio(after), higher=True)

    def _ratio(self, error: Reals) -> Reals:
        assert self.peak is not None
        least = self.peak**2 * 1e-15  # an image without any error has 150 dB
        return np.asarray(10 * np.log10(self.peak**2 / np.maximum(error, least)))


@dataclass(frozen=True)
class MeanIoU:
    """Mean intersection over union of classes, in percent, of a mask for each image.

    The first result is (classes, height, width), or one channel that is positive where the class is; targets
    are (height, width) class numbers, ``IGNORED`` where nothing counts. A class that neither names takes no
    part.
    """

    name = "miou"
    kept = "miou"
    total = True
    unit = "points"

    def check(self, graph: Graph, images: ImageSet) -> None:
        images.check_shape(graph.shapes[graph.input])
        shape = graph.shapes[graph.output]
        if len(shape) != 3:
            raise DesignError(
                f"metric miou of a network with a result of {shape}: expected a score a class and place"
            )
        check_enough(self.name, images, FEW_TOTALS)
        self.outcomes([np.zeros((1, *shape))], images.target(0, 1))

    def outcomes(self, outputs: Outputs, targets: Targets) -> Outcomes:
        scores = outputs[0]
        classes = max(scores.shape[1], 2)
        named = (scores[:, 0] > 0).astype(np.int64) if scores.shape[1] == 1 else scores.argmax(1)
        given = _arrays("miou", targets, named.shape)
        masks = given.astype(np.int64)
        if not np.array_equal(given, masks):
            raise DataError("metric miou: a mask with fractions: expected class numbers")
        counted = masks != IGNORED
        if counted.any() and not 0 <= masks[counted].min() <= masks[counted].max() < classes:
            raise DataError(f"metric miou: a mask with other numbers than 0..{classes - 1} and {IGNORED}")
        rows = np.zeros((len(named), 2 * classes))
        for label in range(classes):
            ours, theirs = (named == label) & counted, masks == label
            rows[:, label] = (ours & theirs).sum((1, 2))
            rows[:, classes + label] = (ours | theirs).sum((1, 2))
        return Outcomes.of(rows)

    def pair(self, reference: Outcomes, candidate: Outcomes) -> Pair:
        return Totals(reference, candidate, self._score, higher=True)

    @staticmethod
    def _score(outcomes: Outcomes, weights: NDArray[np.int64]) -> float:
        inside, union = np.split(weights @ outcomes.table, 2)
        seen = union > 0
        return 100 * float((inside[seen] / union[seen]).mean()) if seen.any() else 0.0


# ------------------------------------------------------------------------------------- own metrics


def _called(label: str, value: Any) -> str:
    """The name of a metric of one's own; it has a colon, so that it is no built-in one's."""
    if not label:
        return name_of(value)
    return label if ":" in label else f"own:{label}"


@dataclass(frozen=True)
class Score:
    """A function of the results and targets that gives one number an image, or whether it is right.

    Attributes:
        function: (results, targets) -> (images,); the results are one array (images, ...), or a tuple if the
            network has several; bool for right or wrong, else real numbers, whose mean is the score.
        higher: whether more is better.
        unit: of the score.
        label: how it is called, after "own:"; by its module and name if not given.
    """

    function: Callable[[Any, Any], NDArray[Any]]
    higher: bool = True
    unit: str = ""
    label: str = ""

    @property
    def name(self) -> str:
        return _called(self.label, self.function)

    @property
    def kept(self) -> str:
        return identity(self.function)

    def check(self, graph: Graph, images: ImageSet) -> None:
        images.check_shape(graph.shapes[graph.input])
        check_enough(self.name, images, FEW_SCORES)

    def outcomes(self, outputs: Outputs, targets: Targets) -> Outcomes:
        found = np.asarray(self.function(outputs[0] if len(outputs) == 1 else tuple(outputs), targets))
        if found.shape != (len(outputs[0]),) or found.dtype.kind not in "biuf":
            raise DataError(
                f"metric {self.name}: gives {found.dtype} of {found.shape}: expected one number for each of "
                f"{len(outputs[0])} images"
            )
        if not np.isfinite(found.astype(np.float64)).all():
            raise DataError(f"metric {self.name}: gives NaN or infinity for some image: expected numbers")
        # whether it is of hits is kept beside it: a score may be 0 and 1 by chance
        return Outcomes.of(np.stack([found.astype(np.float64), np.full(len(found), found.dtype == bool)], 1))

    def pair(self, reference: Outcomes, candidate: Outcomes) -> Pair:
        before, after = reference.table, candidate.table
        if self.higher and before[:, 1].all() and after[:, 1].all():
            return Hits(before[:, 0] > 0, after[:, 0] > 0)
        return Scores(before[:, 0], after[:, 0], self.higher)


@dataclass(frozen=True)
class Total:
    """A score of all images together, from rows of numbers that are kept of each.

    Attributes:
        rows: (results, targets) -> one vector an image, as an array or a sequence.
        score: (outcomes, weights) -> the score where each image counts ``weights`` times.
        higher: whether more is better.
        unit: of the score.
        label: how it is called, after "own:"; by the module and name of ``score`` if not given.
    """

    rows: Callable[[Any, Any], Any]
    score: Callable[[Outcomes, NDArray[np.int64]], float]
    higher: bool = True
    unit: str = ""
    label: str = ""
    total = True

    @property
    def name(self) -> str:
        return _called(self.label, self.score)

    @property
    def kept(self) -> str:
        return f"{self.label} {identity(self.rows)}"

    def check(self, graph: Graph, images: ImageSet) -> None:
        images.check_shape(graph.shapes[graph.input])
        check_enough(self.name, images, FEW_TOTALS)

    def outcomes(self, outputs: Outputs, targets: Targets) -> Outcomes:
        found = Outcomes.of(self.rows(outputs[0] if len(outputs) == 1 else tuple(outputs), targets))
        if len(found) != len(outputs[0]) or not np.isfinite(found.values).all():
            raise DataError(
                f"metric {self.name}: gives {len(found)} rows: expected a row of numbers for each of "
                f"{len(outputs[0])} images"
            )
        return found

    def pair(self, reference: Outcomes, candidate: Outcomes) -> Pair:
        return Totals(reference, candidate, self.score, self.higher)


def torch_metric(metric: Any, higher: bool | None = None) -> Total:
    """A metric of torchmetrics whose states add up: each image's states are kept, and their sums scored.

    Args:
        metric: a ``torchmetrics.Metric``.
        higher: whether more is better; by default what the metric says itself.

    Raises:
        DesignError: its states do not add up, or it does not say which way is better.
    """
    import torch

    reductions = getattr(metric, "_reductions", None)
    if not reductions or any(getattr(f, "__name__", "") != "dim_zero_sum" for f in reductions.values()):
        raise DesignError(
            f"metric {type(metric).__name__}: its states are "
            f"{ {k: getattr(f, '__name__', f) for k, f in (reductions or {}).items()} }: expected sums, "
            "which add up "
            "image by image"
        )
    higher = metric.higher_is_better if higher is None else higher
    if higher is None:
        raise DesignError(f"metric {type(metric).__name__}: does not say whether more is better: give higher")
    names = sorted(reductions)
    metric.reset()
    shapes = [tuple(getattr(metric, name).shape) for name in names]

    def rows(outputs: Any, targets: Any) -> list[Reals]:
        found = []
        for image in range(len(targets)):
            metric.reset()
            given = torch.from_numpy(np.ascontiguousarray(outputs[image : image + 1]))
            metric.update(given, torch.as_tensor(np.asarray(targets[image : image + 1])))
            states = [getattr(metric, name).double().reshape(-1).cpu().numpy() for name in names]
            found.append(np.concatenate(states))
        return found

    def score(outcomes: Outcomes, weights: NDArray[np.int64]) -> float:
        sums = weights @ outcomes.table
        sizes = [int(np.prod(shape)) for shape in shapes]
        metric.reset()
        for name, shape, part in zip(names, shapes, np.split(sums, np.cumsum(sizes)[:-1]), strict=True):
            kind = getattr(metric, name).dtype
            setattr(metric, name, torch.from_numpy(part.copy()).reshape(shape).to(kind))
        metric._update_count = int(weights.sum())
        metric._computed = None
        return float(metric.compute())

    plain = (bool, int, float, str, type(None))
    told = sorted((k, repr(v)) for k, v in vars(metric).items() if k[0] != "_" and isinstance(v, plain))
    about = hashlib.sha256(repr((told, shapes)).encode())
    return Total(rows, score, higher, label=f"torchmetrics.{type(metric).__name__}-{about.hexdigest()[:8]}")


# ------------------------------------------------------------------------------------------- names

METRICS: dict[str, Callable[[str], Metric]] = {
    r"top([1-9][0-9]{0,5})": lambda k: TopK(int(k)),
    "agreement": lambda _: Agreement(),
    "cross-entropy": lambda _: CrossEntropy(),
    "mse": lambda _: SquaredError(),
    r"psnr(?:@([0-9]+(?:\.[0-9]+)?))?": lambda peak: SquaredError(float(peak or 1)),
    "miou": lambda _: MeanIoU(),
}
"""Built in: a pattern of the name, and what makes the metric of its number."""
KNOWN = "top1 (top2, ...), agreement, cross-entropy, mse, psnr (psnr@255), miou"


def check_metric(name: str) -> str:
    """A name that a metric may have; nothing is imported for it.

    Raises:
        DesignError: none has it.
    """
    if ":" in name or any(re.fullmatch(pattern, name) for pattern in METRICS):
        return name
    if name in {point.name for point in entry_points(group=GROUP)}:
        return name
    raise DesignError(f"metric {name!r}: expected {KNOWN}, or package.module:name of one's own")


def find_metric(asked: Any) -> Metric:
    """The metric of a name; or what is one already, or is made one.

    Args:
        asked: a built-in name; ``package.module:name``, which is imported (your code is run); the name of an
            entry point in ``radixpoint.metrics``; a ``Metric``; a metric of torchmetrics; or a function, as
            ``Score`` takes it.

    Raises:
        DesignError: there is none.
    """
    if not isinstance(asked, str):
        return _made(asked, getattr(asked, "__qualname__", type(asked).__name__))
    check_metric(asked)
    for pattern, make in METRICS.items():
        found = re.fullmatch(pattern, asked)
        if found is not None:
            return make(found.group(1) if found.groups() else "")
    if ":" not in asked:
        return _made(next(p for p in entry_points(group=GROUP) if p.name == asked).load(), asked)
    module, _, name = asked.partition(":")
    try:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except Exception as error:  # it is somebody's code
        raise DesignError(f"metric {asked!r}: {type(error).__name__}: {error}") from None
    return _made(value, asked)


def _made(value: Any, asked: str) -> Metric:
    if inspect.isclass(value):
        try:
            value = value()
        except Exception as error:  # it is somebody's code
            raise DesignError(f"metric {asked}: {type(error).__name__}: {error}") from None
    if isinstance(value, Score | Total) and ":" in asked:
        return replace(value, label=asked)  # as it is found again
    if isinstance(value, Metric):
        if ":" not in value.name and not any(re.fullmatch(pattern, value.name) for pattern in METRICS):
            raise DesignError(
                f"metric {asked}: is called {value.name!r}: expected a name with a colon, such as my:x"
            )
        return value
    if hasattr(value, "_reductions") and hasattr(value, "compute"):
        return torch_metric(value)
    if callable(value):
        return Score(value, label=asked if ":" in asked else "")
    raise DesignError(f"metric {asked}: expected a function (results, targets) -> scores, or a metric")


def ahead(
    images: ImageSet, prepare: Callable[[NDArray[np.float32]], Prepared]
) -> Iterator[tuple[Prepared, Targets]]:
    """Prepared batches of all images and their targets; one batch is made ahead of its use."""

    def batch(begin: int) -> Prepared:
        return prepare(images.inputs(begin, min(begin + BATCH, len(images))))

    begins = range(0, len(images), BATCH)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(batch, 0) if begins else None
        for begin in begins:
            assert following is not None
            ready = following.result()
            following = pool.submit(batch, begin + BATCH) if begin + BATCH < len(images) else None
            yield ready, images.target(begin, begin + BATCH)
