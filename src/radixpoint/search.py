"""The search: smallest word lengths under a limit on the accuracy drop.

It knows only design -> score. Whatever it finds out is in the run folder at once, keyed by content, so that a
search that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec.structs import replace

from radixpoint.allocate import (
    Allocation,
    Constraints,
    Losses,
    Objective,
    Sensitivity,
    allocate,
    allocated,
    averages,
    check_by_layer,
    check_constraints,
    frontier,
    greedy,
    other_parameters,
    product_layers,
)
from radixpoint.calibrate import Ranges, calibrate
from radixpoint.cost import multiplier_cost
from radixpoint.data import ImageSet
from radixpoint.design import Codes, Design, Widths
from radixpoint.engines import make_engine
from radixpoint.equalize import pairs
from radixpoint.errors import DesignError, RunError
from radixpoint.evaluate import (
    BATCH,
    NO_OUTCOMES,
    Evaluation,
    Metric,
    Outcomes,
    drop,
    drop_interval,
    float_outcomes,
    integer_outcomes,
    summarize,
)
from radixpoint.files import write_whole
from radixpoint.ir import Graph
from radixpoint.policies import POLICIES, check_policy
from radixpoint.quantize import Quantizer
from radixpoint.storage import save_network

RESULT_VERSION = 1
LAYERED = ("greedy", "per-layer")
"""Policies with a word length for each layer."""
POINTS = 12
"""Designs on the frontier of accuracy and cost."""
HALVINGS = 3
"""More designs between the cheapest that holds and the next cheaper one."""
FEWEST = 500
"""An evaluation is not stopped before this many images."""
Z_STOP = 3.2905267314919255
"""Normal quantile of a 99.9 % interval: looking again and again asks for more than 95 %."""

Verdict = Literal["holds", "fails"]


class Criterion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A design holds if its drop of ``metric`` is at most ``limit`` percentage points."""

    metric: Metric = "top1"
    limit: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.limit < 100:
            raise ValueError(f"a limit of {self.limit} percentage points: expected 0 to 100")


class _Record(msgspec.Struct, frozen=True):
    """Outcomes in a file: one character an image."""

    images: int
    top1: str
    top5: str
    prediction: list[int]

    @classmethod
    def of(cls, o: Outcomes) -> _Record:
        bits = ["".join("01"[int(b)] for b in row) for row in (o.top1, o.top5)]
        return cls(len(o), bits[0], bits[1], o.prediction.tolist())

    def outcomes(self) -> Outcomes:
        rows = [np.array([c == "1" for c in row], bool) for row in (self.top1, self.top5)]
        return Outcomes(rows[0], rows[1], np.array(self.prediction, np.int64))


class Watcher:
    """Told how a search goes on; this one keeps quiet, but for warnings."""

    def stage(self, text: str, images: int, images_left: int) -> None:
        """A stage begins: of ``images`` images, with at most ``images_left`` after it."""

    def progress(self, images: int) -> None:
        """So many images of the stage are done."""

    def judged(self, text: str, evaluation: Evaluation, verdict: Verdict, cached: bool) -> None:
        """A design was judged."""

    def warned(self, text: str) -> None:
        """Something makes the result worth less than it looks."""
        warnings.warn(text, stacklevel=4)


def _run_folder(path: Path) -> Path:
    """Make or reopen a run folder.

    Raises:
        RunError: it cannot be written, or holds something else.
    """
    marker = path / "run.json"
    try:
        if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not marker.exists())):
            raise RunError(
                f"{path}: exists and is no run folder of radixpoint: expected a new or empty folder"
            )
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be made: {error.strerror}") from None
    if not marker.exists():
        write_whole(marker, b'{"radixpoint_run": 1}\n')
    return path


def _cache_folder(path: Path) -> Path:
    """Make a cache folder and see that it can be written.

    Raises:
        RunError: it cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be made: {error.strerror}") from None
    probe = path / f".probe-{os.getpid()}"
    write_whole(probe, b"")
    probe.unlink()
    return path


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@dataclass(eq=False)
class Judge:
    """Judges designs of one network on one set of images, remembering everything in a folder."""

    graph: Graph
    images: ImageSet
    calibration: ImageSet
    cache: Path
    watcher: Watcher = field(default_factory=Watcher)
    criterion: Criterion = field(default_factory=Criterion)
    images_left: int = 0
    threads: int = 0
    quantizer: Quantizer = None  # type: ignore[assignment]  # default: made here

    def __post_init__(self) -> None:
        self._version = version("radixpoint")
        self._reference = self._float_outcomes()
        if self.quantizer is None:
            self.quantizer = Quantizer(self.graph, self._ranges(), self.calibration)

    def _float_outcomes(self) -> Outcomes:
        path = self.cache / f"float-{_key(self._version, self.graph.digest, self.images.digest)}.json"
        known = self._read(path)
        if len(known) < len(self.images):
            self.watcher.stage("float network", len(self.images), 0)
            known = float_outcomes(self.graph, self.images, lambda done, _: self.watcher.progress(done))
            self._write(path, known)
        return known

    def _ranges(self) -> Ranges:
        path = self.cache / f"ranges-{_key(self._version, self.graph.digest, self.calibration.digest)}.npz"
        if path.exists():
            return Ranges.load(path)
        self.watcher.stage("calibration", len(self.calibration), 0)
        ranges = calibrate(self.graph, self.calibration, lambda done, _: self.watcher.progress(done))
        ranges.save(path)
        return ranges

    def _read(self, path: Path) -> Outcomes:
        if not path.exists():
            return NO_OUTCOMES
        return msgspec.json.decode(path.read_bytes(), type=_Record).outcomes()

    def _write(self, path: Path, o: Outcomes) -> None:
        write_whole(path, msgspec.json.encode(_Record.of(o)))

    @property
    def float_evaluation(self) -> Evaluation:
        """The float network against itself: its accuracy, no drop."""
        return summarize(self._reference, self._reference, self.criterion.metric)

    def _decided(self, seen: Outcomes) -> tuple[int, Verdict] | None:
        """After how many of the images seen the verdict is certain, and which; None if it is not.

        Looks at the same places whatever is already known, so that an interrupted search and an undisturbed
        one decide alike.
        """
        metric, limit = self.criterion.metric, self.criterion.limit
        for count in range(-(-FEWEST // BATCH) * BATCH, min(len(seen), len(self.images) - 1) + 1, BATCH):
            before, after = self._reference.first(count).hits(metric), seen.first(count).hits(metric)
            low, high = drop_interval(before, after, Z_STOP)
            if low > limit or high < limit:
                return count, "fails" if low > limit else "holds"
        return self._final(seen)

    def _final(self, seen: Outcomes) -> tuple[int, Verdict] | None:
        """The verdict of all images, once all are seen."""
        if len(seen) < len(self.images):
            return None
        metric = self.criterion.metric
        lost = drop(self._reference.hits(metric), seen.hits(metric))
        return len(seen), "holds" if lost <= self.criterion.limit else "fails"

    def _path(self, design: Design) -> Path:
        parts = (self._version, self.graph.digest, self.images.digest, self.calibration.digest)
        return self.cache / f"design-{_key(*parts, design.to_json().decode())}.json"

    def outcomes(self, text: str, design: Design) -> tuple[Outcomes, Outcomes]:
        """Image by image on all of them: of the float network, and of ``design``."""
        self.judge(text, design, whole=True)
        return self._reference, self._read(self._path(design))

    def judge(self, text: str, design: Design, whole: bool = False) -> tuple[Evaluation, Verdict]:
        """Evaluate ``design`` until its verdict is certain, or on every image if ``whole``."""
        path = self._path(design)
        decide = self._final if whole else self._decided
        seen = self._read(path)
        decided = decide(seen)
        cached = decided is not None
        if not cached:
            self.watcher.stage(text, len(self.images), self.images_left)
            quantized = self.quantizer.quantize(design)
            engine = make_engine(quantized, threads=self.threads)
            for more in integer_outcomes(quantized, engine, self.images, len(seen)):
                seen = seen.joined(more)
                self._write(path, seen)
                self.watcher.progress(len(seen))
                decided = decide(seen)
                if decided is not None:
                    break
        assert decided is not None  # every image decides
        count, verdict = decided
        evaluation = summarize(self._reference, seen.first(count), self.criterion.metric)
        self.watcher.judged(text, evaluation, verdict, cached)
        return evaluation, verdict

    def measured(
        self, what: str, design: Design, lengths: Sequence[int], kind: Any, make: Any, about: str = ""
    ) -> Any:
        """What ``make`` measures of the network under ``design``, of type ``kind``, kept in a file.

        ``about``: what else the measurement depends on.
        """
        parts = (self._version, self.graph.digest, self.calibration.digest)
        name = _key(*parts, design.to_json().decode(), str(list(lengths)), about)
        path = self.cache / f"{what}-{name}.json"
        if not path.exists():
            total = 0

            def progress(done: int, everything: int) -> None:
                nonlocal total
                if total != everything:
                    total = everything
                    self.watcher.stage(what, everything, self.images_left)
                self.watcher.progress(done)

            found = make(Losses(self.quantizer, design, lengths), progress)
            write_whole(path, msgspec.json.encode(found))
        return msgspec.json.decode(path.read_bytes(), type=kind)

    def save(self, design: Design, folder: Path) -> int | None:
        """Write ``design.json`` and ``network.safetensors``.

        Returns:
            The multiplier cost, or None where what is multiplied is not fixed-point.
        """
        folder.mkdir(parents=True, exist_ok=True)
        quantized = self.quantizer.quantize(design)
        write_whole(folder / "design.json", design.to_json())
        save_network(quantized, folder / "network.safetensors")
        return multiplier_cost(quantized) if design.codes == Codes() else None


@dataclass(frozen=True)
class Found:
    """Result of a search along one word length."""

    word_length: int | None
    evaluation: Evaluation | None
    monotone: bool
    tried: dict[int, tuple[Evaluation, Verdict]]


def smallest(judge: Callable[[int, bool], tuple[Evaluation, Verdict]], word_lengths: Sequence[int]) -> Found:
    """Smallest word length that holds: bisection, then both neighbours are verified.

    The answer has been evaluated on every image, and the word length below it fails. ``monotone`` is false
    if the one above the answer fails. If the longest fails there is no answer.

    Args:
        judge: (word length, on every image?) -> evaluation and verdict.
        word_lengths: ascending.
    """
    tried: dict[int, tuple[Evaluation, Verdict]] = {}

    def holds(index: int, whole: bool = False) -> bool:
        tried[word_lengths[index]] = judge(word_lengths[index], whole)
        return tried[word_lengths[index]][1] == "holds"

    last = len(word_lengths) - 1
    low, high = -1, last  # low fails (or is below the range), high holds
    if not holds(high):
        return Found(None, None, True, tried)
    while True:
        while high - low > 1:
            middle = (low + high) // 2
            if holds(middle):
                high = middle
            else:
                low = middle
        if holds(high, whole=True):
            break
        low = high  # every image says otherwise than the first ones did
        high += 1
        if high > last:
            return Found(None, None, False, tried)
    monotone = high == last or word_lengths[high + 1] in tried or holds(high + 1)
    monotone = monotone and (high == last or tried[word_lengths[high + 1]][1] == "holds")
    evaluation = tried[word_lengths[high]][0]
    return Found(word_lengths[high], evaluation, monotone, tried)


def cheapest(judged: Sequence[tuple[Evaluation, Verdict]]) -> Found:
    """The first that holds of designs judged on every image, the cheapest first.

    ``word_length`` is its place; ``monotone`` is false if a dearer one fails.
    """
    tried = dict(enumerate(judged))
    holding = [i for i, (_, verdict) in tried.items() if verdict == "holds"]
    if not holding:
        return Found(None, None, True, tried)
    first = holding[0]
    return Found(first, tried[first][0], len(holding) == len(judged) - first, tried)


def search(
    graph: Graph,
    images: ImageSet,
    calibration: ImageSet,
    folder: str | Path,
    criterion: Criterion | None = None,
    policies: Sequence[str] = ("joint", "separate"),
    word_lengths: Sequence[int] = tuple(range(2, 17)),
    bn_start: int = 16,
    grid: bool = False,
    watcher: Watcher | None = None,
    cache: str | Path | None = None,
    threads: int = 0,
    held_out: ImageSet | None = None,
    objective: Objective = "multipliers",
    constraints: Constraints | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Find the smallest word lengths under the criterion.

    ``joint`` is one word length everywhere. ``separate`` (Kang 2018) finds the smallest convolution word
    length with batch normalization at ``bn_start`` bits, then the smallest batch normalization word length
    that still holds with it; so do the other policies of :data:`radixpoint.policies.POLICIES`. ``greedy`` and
    ``per-layer`` first find the word lengths of the layers (:mod:`radixpoint.allocate`).

    Args:
        graph: the network.
        images: to judge accuracy on.
        calibration: to choose binary points from.
        folder: the run folder; what an interrupted search left there is taken up.
        criterion: default 1.0 percentage point of top-1.
        policies: which to search.
        word_lengths: candidates, ascending.
        bn_start: word length of batch normalization while the convolutions' is searched.
        grid: also evaluate every conv x bn pair, on every image.
        watcher: told how it goes.
        cache: folder of finished evaluations; searches may share one, since its keys are the content of
            what was evaluated. Default: in the run folder.
        threads: of the engine; 0 takes all cores.
        held_out: images that take no part in any choice: the design that each policy finds is reported on
            them as well.
        objective: what ``per-layer`` makes as small as it can.
        constraints: what ``per-layer`` keeps to.
        options: further fields of :class:`radixpoint.design.Design`.

    Returns:
        What is written to ``result.json`` (see ``docs/result.md``).

    Raises:
        DataError, DesignError, RunError: what was given cannot be used.
    """
    criterion = criterion or Criterion()
    lengths = sorted(set(word_lengths))
    if not lengths or not policies or set(policies) - {*POLICIES, *LAYERED}:
        raise DesignError(
            f"policies {list(policies)} with word lengths {lengths}: expected some of "
            f"{', '.join((*POLICIES, *LAYERED))}, and at least one word length"
        )
    if len(lengths) < 2 and set(policies) & set(LAYERED):
        raise DesignError(f"word lengths {lengths}: expected at least two for {' and '.join(LAYERED)}")
    # what is impossible is refused before any work
    for policy in dict.fromkeys((*policies, *(["separate"] if grid else []))):
        check_policy(policy, lengths, bn_start, options, graph)
    if options.get("equalize"):
        pairs(graph)
    if set(policies) & set(LAYERED):
        check_by_layer(Design.separate(lengths[0], bn_start, **options))
    for image_set in (images, calibration, *([] if held_out is None else [held_out])):
        image_set.check(graph.shapes[graph.input], graph.shapes[graph.output][0])
    layers = product_layers(graph, bool(options.get("unsigned")))
    limits, others = constraints or Constraints(), 0
    if "per-layer" in policies:
        others = other_parameters(graph, Design.separate(lengths[-1], bn_start, **options))
        check_constraints(layers, lengths, limits, others)
        for name, one in layers.items():
            fixed = limits.fixed.get(name)
            for pair in product(lengths, lengths) if fixed is None else [(fixed, fixed)]:
                one.cost(pair, objective)
    overlap = _overlap(images, calibration, held_out, watcher or Watcher())
    run = _run_folder(Path(folder))
    kept = _cache_folder(run / "cache" if cache is None else Path(cache))
    judge = Judge(graph, images, calibration, kept, watcher or Watcher(), criterion, threads=threads)
    # Upper bound on evaluations, for the estimate of the time left: a bisection, its ends, its neighbour.
    steps = len(lengths).bit_length() + 2
    first = {
        "joint": 0,
        "per-layer": POINTS + HALVINGS,
        "greedy": (len(layers) * len(lengths)).bit_length() + 2,
    }
    most = sum(first.get(policy, steps) + steps for policy in policies)
    judge.images_left = len(images) * (most + (len(lengths) ** 2 if grid else 0))

    def along(
        text: str, design: Callable[[int], Design], candidates: Sequence[int] = lengths, unit: str = " bits"
    ) -> Found:
        def one(word_length: int, whole: bool) -> tuple[Evaluation, Verdict]:
            judge.images_left -= len(images)
            return judge.judge(f"{text} {word_length}{unit}", design(word_length), whole)

        return smallest(one, candidates)

    def joint() -> tuple[dict[str, Any], Design | None]:
        found = along("joint", lambda w: Design.joint(w, **options))
        best = None if found.word_length is None else Design.joint(found.word_length, **options)
        return _policy(found, {"word_length": found.word_length}), best

    def with_bn(
        text: str, first: Found, design: Callable[[int], Design]
    ) -> tuple[dict[str, Any], Design | None]:
        """``first`` found what the convolutions take at ``bn_start``; now the smallest bn that holds."""
        details = {"conv_search": _tried(first), "bn_search": None, "conv_at_bn_start": None}
        if first.word_length is None or first.evaluation is None:
            return _policy(first, {"conv": None, "bn": None}) | details, None
        details["conv_at_bn_start"] = msgspec.to_builtins(first.evaluation)
        # bn_start is known to hold; nothing longer needs a look.
        shorter = [w for w in sorted({*lengths, bn_start}) if w <= bn_start]
        bn = along(f"{text}, bn", design, shorter)
        details["bn_search"] = _tried(bn)
        best = None if bn.word_length is None else design(bn.word_length)
        return _policy(bn, {"conv": first.word_length, "bn": bn.word_length}) | details, best

    def two_stages(policy: str) -> tuple[dict[str, Any], Design | None]:
        make = POLICIES[policy].design
        conv = along(f"{policy}, bn {bn_start}, conv", lambda w: make(w, bn_start, options, graph))
        chosen = conv.word_length or 0
        return with_bn(f"{policy}, conv {chosen}", conv, lambda w: make(chosen, w, options, graph))

    def price(one: Allocation) -> float:
        return sum(layers[name].cost(pair, objective) for name, pair in one.items())

    def along_frontier(start: Design, plain: Design) -> tuple[Sensitivity, list[Allocation], Found]:
        """Losses, allocations with the cheapest first, and which of them holds."""
        sensitivity = judge.measured("sensitivity", plain, lengths, Sensitivity, Losses.measure)
        apart = {name: w for name, w in limits.fixed.items() if w not in lengths}
        if apart:
            more = judge.measured(
                *("sensitivity", plain, lengths, Sensitivity),
                lambda losses, progress: losses.measure(progress, apart),
                str(sorted(apart.items())),
            )
            sensitivity = sensitivity.joined(more)

        def judged(one: Allocation) -> tuple[Evaluation, Verdict]:
            judge.images_left -= len(images)
            return judge.judge(
                f"per-layer, point of cost {price(one):.6g}", allocated(start, one, graph), whole=True
            )

        path = frontier(sensitivity, layers, POINTS, objective, limits, others)[::-1]
        verdicts = [judged(one) for one in path]
        for _ in range(HALVINGS):
            place = cheapest(verdicts).word_length
            if not place:  # none holds, or the cheapest of all does
                break
            budget = math.sqrt(sensitivity.loss(path[place]) * sensitivity.loss(path[place - 1]))
            one = allocate(sensitivity, layers, budget, objective, limits, others)
            if one is None or any(dict(one) == dict(other) for other in path):
                break
            path.insert(place, one)
            verdicts.insert(place, judged(one))
        return sensitivity, path, cheapest(verdicts)

    def layered(policy: str) -> tuple[dict[str, Any], Design | None]:
        start = Design.separate(lengths[-1], bn_start, **options)
        plain = replace(start, refine=[])
        extra: dict[str, Any] = {}
        if policy == "greedy":
            kind = list[dict[str, tuple[int, int]]]
            path = judge.measured("greedy", plain, lengths, kind, greedy)[::-1]  # the cheapest first
            designs = [allocated(start, one, graph) for one in path]
            found = along(f"{policy}, bn {bn_start}, point", lambda i: designs[i], range(len(path)), "")
        else:
            sensitivity, path, found = along_frontier(start, plain)
            designs = [allocated(start, one, graph) for one in path]
            extra["frontier"] = [
                {
                    "predicted_loss": sensitivity.loss(one),
                    "cost": price(one),
                    "average": averages(layers, one),
                    "layers": one,
                    **msgspec.to_builtins(found.tried[i][0]),
                }
                for i, one in enumerate(path)
            ]
        point = found.word_length
        if point is None:
            details, best = with_bn(policy, found, lambda w: start)
            return details | extra, best
        chosen = designs[point]

        def with_width(w: int) -> Design:
            return replace(chosen, classes={**chosen.classes, "bn": Widths.all(w)})

        details, best = with_bn(policy, found, with_width)
        details["conv"] = None
        details["layers"] = path[point]
        details["average"] = averages(layers, path[point])
        return details | extra, best

    reporter = None
    if held_out is not None:
        reporter = Judge(
            graph, held_out, calibration, kept, watcher or Watcher(), criterion, 0, threads, judge.quantizer
        )
    found: dict[str, Any] = {}
    costs: dict[str, int] = {}
    for policy in policies:
        if policy == "joint":
            found[policy], best = joint()
        else:
            found[policy], best = layered(policy) if policy in LAYERED else two_stages(policy)
        found[policy]["held_out"] = None
        if best is None:
            for name in ("design.json", "network.safetensors"):  # of an earlier search with other options
                (run / policy / name).unlink(missing_ok=True)
        else:
            cost = judge.save(best, run / policy)
            found[policy]["multiplier_cost"] = cost
            if cost is not None:
                costs[policy] = cost
            if reporter is not None:
                found[policy]["held_out"] = msgspec.to_builtins(
                    reporter.judge(f"{policy}, held out", best, whole=True)[0]
                )
    for policy, details in found.items():
        if "multiplier_cost" in details:
            both = policy in costs and "joint" in costs
            details["relative_cost"] = costs[policy] / costs["joint"] if both else None

    result: dict[str, Any] = {
        "radixpoint_result": RESULT_VERSION,
        "version": version("radixpoint"),
        "criterion": msgspec.to_builtins(criterion),
        "options": msgspec.to_builtins(options),
        "objective": objective,
        "constraints": msgspec.to_builtins(limits),
        "word_lengths": lengths,
        "bn_start": bn_start,
        "network": graph.digest,
        "images": _about(images),
        "calibration": _about(calibration),
        "held_out": None if held_out is None else _about(held_out),
        "overlap": overlap,
        "preprocessing": msgspec.to_builtins(images.preprocessing),
        "float": {"top1": judge.float_evaluation.top1, "top5": judge.float_evaluation.top5},
        "policies": found,
    }
    if grid:
        cells = []
        for conv_length in lengths:
            for bn_length in lengths:
                design = Design.separate(conv_length, bn_length, **options)
                evaluation, verdict = judge.judge(
                    f"grid {conv_length} x {bn_length} bits", design, whole=True
                )
                judge.images_left -= len(images)
                cells.append(
                    {
                        "conv": conv_length,
                        "bn": bn_length,
                        "verdict": verdict,
                        **msgspec.to_builtins(evaluation),
                    }
                )
        result["grid"] = cells
    document = msgspec.json.format(msgspec.json.encode(result)) + b"\n"
    write_whole(run / "result.json", document)
    return dict(msgspec.json.decode(document))


def _overlap(
    images: ImageSet, calibration: ImageSet, held_out: ImageSet | None, watcher: Watcher
) -> dict[str, int]:
    """How many images serve twice; each kind is warned of."""
    found = {"images, calibration": images.shared_with(calibration)}
    if found["images, calibration"]:
        watcher.warned(
            f"{found['images, calibration']} of {len(images)} images are calibration images too: what is "
            "chosen on them is judged on them, and its drop is too good to be true"
        )
    if held_out is not None:
        for what, other in (("images", images), ("calibration", calibration)):
            both = found[f"held_out, {what}"] = held_out.shared_with(other)
            if both:
                kind = "searched" if what == "images" else what
                watcher.warned(f"{both} held-out images are {kind} images too: they are not held out")
    return found


def _about(images: ImageSet) -> dict[str, Any]:
    return {
        "digest": images.digest,
        "count": len(images),
        "unreadable": [list(pair) for pair in images.unreadable],
    }


def _tried(found: Found) -> list[dict[str, Any]]:
    return [
        {"word_length": w, "verdict": verdict, **msgspec.to_builtins(evaluation)}
        for w, (evaluation, verdict) in sorted(found.tried.items())
    ]


def _policy(found: Found, word_lengths: dict[str, int | None]) -> dict[str, Any]:
    e = found.evaluation
    return {
        **word_lengths,
        "top1": None if e is None else e.top1,
        "top5": None if e is None else e.top5,
        "drop": None if e is None else e.drop,
        "drop_interval": None if e is None else list(e.drop_interval),
        "agreement": None if e is None else e.agreement,
        "monotone": found.monotone,
        "tried": _tried(found),
    }
