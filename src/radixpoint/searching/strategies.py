"""Strategies: in which order designs are tried, and which of those that hold is the answer.

With confidence, a search makes one promise for all its answers together: with at least that probability
each of them is within the limit on images that nobody looked at. Its error is shared out before anything is
looked at: evenly among the strategies; of a strategy with two stages, half to the first and half to the
second, evenly among the designs that could come out of the first. Within a stage the order of the designs
is fixed (``radixpoint.searching.line.confident``), so the stage errs no more often than one of its tests.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product, takewhile
from typing import Any, Protocol

from msgspec import UNSET
from msgspec.structs import asdict, replace

from radixpoint.accelerator.target import HardwareTarget
from radixpoint.errors import DesignError
from radixpoint.ir.graph import Graph
from radixpoint.measure.evaluate import Evaluation
from radixpoint.quantization.design import Design, Widths
from radixpoint.quantization.quantize import at_length
from radixpoint.searching.allocate import (
    Allocation,
    Constraints,
    Losses,
    Objective,
    Products,
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
from radixpoint.searching.judge import Judge
from radixpoint.searching.line import Found, Judged, cheapest, confident, smallest
from radixpoint.searching.policies import POLICIES, check_policy
from radixpoint.searching.result import Point, PolicyResult, Trial

POINTS = 12
"""Designs on the frontier of accuracy and cost."""
HALVINGS = 3
"""More designs between the cheapest that holds and the next cheaper one."""
IN_VAIN = 3
"""Word lengths of batch normalization below the answer that are to fail: binary points chosen at one length
are not those chosen at the next, so a shorter one may lose less."""
Rank = tuple[float, ...]
"""Of a design under a strategy: the smallest is the best."""


@dataclass(frozen=True)
class Space:
    """What a search may choose from.

    Attributes:
        graph: the network.
        lengths: candidates for word lengths, ascending.
        bn_start: word length of batch normalization while the convolutions' is searched.
        options: further fields of ``radixpoint.quantization.design.Design``.
        objective: what ``per-layer`` makes as small as it can.
        constraints: what ``per-layer`` keeps to.
        target: hardware that every design must run on, or None.
    """

    graph: Graph
    lengths: tuple[int, ...]
    bn_start: int
    options: Mapping[str, Any]
    objective: Objective
    constraints: Constraints
    target: HardwareTarget | None = None

    @property
    def bn_lengths(self) -> list[int]:
        """bn_start and what is shorter."""
        return [w for w in sorted({*self.lengths, self.bn_start}) if w <= self.bn_start]

    def fitted(self, design: Design) -> Design:
        """The design with word lengths that the target has.

        Raises:
            DesignError: it has none that short.
        """
        return design if self.target is None else self.target.fitted(design)

    def check_target(self, design: Design) -> None:
        """Refuse a design that the target rules out, as far as it shows without quantizing.

        Raises:
            DesignError: it does.
        """
        if self.target is not None:
            fitted = self.target.fitted(design)
            self.target.check(self.target.problems_of_design(fitted, self.graph))

    def possible(self, design: Callable[[int], Design], lengths: Sequence[int]) -> list[int]:
        """Those of ``lengths``, ascending, whose designs the target does not rule out and that differ from
        the shorter ones' once they are fitted.

        Raises:
            DesignError: there is none.
        """
        if self.target is None:
            return list(lengths)
        found: list[int] = []
        last: Design | None = None
        refused: DesignError | None = None
        for length in lengths:
            try:
                fitted = self.fitted(design(length))
                if fitted != last:
                    self.check_target(fitted)
                    found, last = [*found, length], fitted
            except DesignError as error:
                refused = refused or error
        if not found and refused is not None:
            raise DesignError(f"no word length of {_span(lengths)} fits: at {lengths[0]} bits: {refused}")
        return found


def _span(lengths: Sequence[int]) -> str:
    return f"{lengths[0]}..{lengths[-1]}"


@dataclass(frozen=True)
class Answer:
    """What a strategy found: its entry in ``result.json``, the design, and how good it is, if one holds."""

    found: PolicyResult
    design: Design | None
    rank: Rank | None


class Strategy(Protocol):
    """One way to search."""

    @property
    def name(self) -> str:
        """As it is asked for."""
        ...

    def check(self) -> None:
        """Refuse what is impossible, before any work.

        Raises:
            DesignError: it is.
        """
        ...

    def evaluations(self) -> int:
        """Of designs, at most, for an estimate of the time."""
        ...

    def run(self, judge: Judge, error: float | None) -> Answer:
        """Search. ``error`` is the strategy's share of what may go wrong, or None without confidence."""
        ...

    def admitted(self, judge: Judge) -> Iterator[tuple[Rank, Design]]:
        """Designs that could be its answer and that the judge has seen hold, whoever asked."""
        ...

    def adopted(self, answer: Answer, rank: Rank, design: Design, evaluation: Evaluation) -> Answer:
        """The answer with another design that it admits."""
        ...


def _bisections(lengths: Sequence[int], sure: bool = False) -> int:
    """Evaluations of a bisection, its ends, its neighbour."""
    return len(lengths) if sure else len(lengths).bit_length() + 2


def _along(
    judge: Judge,
    text: str,
    design: Callable[[int], Design],
    places: Sequence[int],
    error: float | None,
    unit: str = " bits",
    in_vain: int = 1,
) -> Found:
    """Along one line of designs, ascending; to be sure, in fixed order from the longest down.

    ``in_vain``: as ``radixpoint.searching.line.smallest`` has it.
    """

    def judged(place: int, whole: bool) -> Judged:
        judge.images_left -= len(judge.images)
        return judge.judge(f"{text} {place}{unit}", design(place), whole, error)

    def expect(coming: Sequence[int]) -> None:
        judge.expect([design(place) for place in coming])

    left, ruled_out = [], {}
    for place in places:
        if why := judge.ruled_out(design(place)):
            ruled_out[f"{text} {place}{unit}"] = why
        else:
            left.append(place)
    if not left:
        return Found(None, None, True, {}, ruled_out)
    found = smallest(judged, left, expect, in_vain) if error is None else confident(judged, left, expect)
    return dataclasses.replace(found, ruled_out=ruled_out)


def _half(error: float | None, ways: int = 1) -> float | None:
    """A stage's share of a strategy's error."""
    return None if error is None else error / 2 / ways


def tried(found: Found) -> list[Trial]:
    """Every design that was tried, as ``result.json`` has it."""
    return [
        Trial(**asdict(evaluation), word_length=w, verdict=verdict)
        for w, (evaluation, verdict) in sorted(found.tried.items())
    ]


def _accuracy(evaluation: Evaluation | None) -> dict[str, Any]:
    fields = ("score", "top1", "top5", "drop", "drop_interval", "drop_bound", "agreement")
    return {name: None if evaluation is None else getattr(evaluation, name) for name in fields}


def _entry(found: Found, **own: Any) -> PolicyResult:
    ruled_out = {**own.pop("ruled_out", {}), **found.ruled_out}
    if ruled_out:
        own["ruled_out"] = ruled_out
    return PolicyResult(**own, **_accuracy(found.evaluation), monotone=found.monotone, tried=tried(found))


def _adopted(answer: Answer, rank: Rank, design: Design, evaluation: Evaluation, **own: Any) -> Answer:
    return Answer(replace(answer.found, **own, **_accuracy(evaluation), adopted=True), design, rank)


@dataclass(frozen=True)
class Joint:
    """One word length everywhere."""

    space: Space
    name: str = "joint"

    def check(self) -> None:
        check_policy(self.name, self.space.lengths, self.space.bn_start, self.space.options, self.space.graph)
        self._lengths()

    def evaluations(self) -> int:
        return _bisections(self.space.lengths)

    def _design(self, word_length: int) -> Design:
        return self.space.fitted(Design.joint(word_length, **self.space.options))

    def _lengths(self) -> list[int]:
        return self.space.possible(self._design, self.space.lengths)

    def run(self, judge: Judge, error: float | None) -> Answer:
        found = _along(judge, "joint", self._design, self._lengths(), error)
        w = found.word_length
        entry = _entry(found, word_length=w)
        return Answer(entry, None if w is None else self._design(w), None if w is None else (w,))

    def admitted(self, judge: Judge) -> Iterator[tuple[Rank, Design]]:
        for w in self._lengths():
            if judge.has_seen_hold(self._design(w)):
                yield (w,), self._design(w)

    def adopted(self, answer: Answer, rank: Rank, design: Design, evaluation: Evaluation) -> Answer:
        return _adopted(answer, rank, design, evaluation, word_length=int(rank[0]))


def _with_bn(
    judge: Judge,
    space: Space,
    text: str,
    first: Found,
    design: Callable[[int], Design],
    error: float | None,
    ways: int,
) -> tuple[PolicyResult, int | None]:
    """``first`` found what the convolutions take at ``bn_start``; now the smallest bn that holds.

    ``ways``: how many designs could have come out of the first stage.
    """
    conv_search = tried(first)
    if first.word_length is None or first.evaluation is None:
        nothing = {"bn_search": None, "conv_at_bn_start": None}
        return _entry(first, conv=None, bn=None, conv_search=conv_search, **nothing), None
    # bn_start is known to hold; nothing longer needs a look.
    lengths = space.possible(design, space.bn_lengths)
    lengths = lengths if error is None else lengths[:-1]
    share = _half(error, ways)
    bn = _along(judge, f"{text}, bn", design, lengths, share, in_vain=IN_VAIN) if lengths else None
    if error is not None and (bn is None or bn.word_length is None):
        looked = Found(None, None, True, {}) if bn is None else bn
        bn = Found(space.bn_start, first.evaluation, True, looked.tried, looked.ruled_out)
    assert bn is not None  # without confidence bn_start is among the lengths
    lengths_found = {"conv": first.word_length, "bn": bn.word_length}
    searches = {"conv_search": conv_search, "bn_search": tried(bn), "conv_at_bn_start": first.evaluation}
    return _entry(bn, **lengths_found, **searches, ruled_out=first.ruled_out), bn.word_length


@dataclass(frozen=True)
class TwoStages:
    """The cheapest pair of word lengths, of the convolutions and of batch normalization.

    First the smallest of the convolutions with batch normalization at ``bn_start`` bits, then the smallest of
    batch normalization that still holds with it (Kang 2018). Longer convolutions are cheaper only where
    batch normalization is shorter beside them, and multiplies much: then those pairs are searched too.
    """

    name: str
    space: Space

    def check(self) -> None:
        check_policy(self.name, self.space.lengths, self.space.bn_start, self.space.options, self.space.graph)
        self._lengths()

    def evaluations(self) -> int:
        return 2 * _bisections(self.space.lengths) + IN_VAIN - 1

    def _design(self, conv: int, bn: int) -> Design:
        space = self.space
        return space.fitted(POLICIES[self.name].design(conv, bn, space.options, space.graph))

    def _lengths(self) -> list[int]:
        return self.space.possible(lambda w: self._design(w, self.space.bn_start), self.space.lengths)

    def _rank(self, judge: Judge, conv: int, bn: int) -> Rank:
        """The multiplier cost, where there is one; then the word lengths."""
        return judge.price(self._design(conv, bn)), conv, bn

    def run(self, judge: Judge, error: float | None) -> Answer:
        start, lengths = self.space.bn_start, self._lengths()
        first = _along(
            judge, f"{self.name}, bn {start}, conv", lambda w: self._design(w, start), lengths, _half(error)
        )
        chosen = first.word_length or 0
        entry, bn = _with_bn(
            *(judge, self.space, f"{self.name}, conv {chosen}", first),
            *(lambda w: self._design(chosen, w), error, len(lengths)),
        )
        if bn is None:
            return Answer(entry, None, None)
        answer = Answer(entry, self._design(chosen, bn), self._rank(judge, chosen, bn))
        for conv in lengths[lengths.index(chosen) + 1 :]:
            cheaper = self._cheaper(judge, conv, answer)
            if not cheaper:  # nor beside longer convolutions
                break
            answer = self._with_conv(judge, conv, cheaper, answer, _half(error, len(lengths)))
        return answer

    def _cheaper(self, judge: Judge, conv: int, answer: Answer) -> list[int]:
        """Word lengths of batch normalization, ascending, that make a cheaper pair beside ``conv``."""
        assert answer.rank is not None
        lengths, rank = self.space.possible(partial(self._design, conv), self.space.bn_lengths), answer.rank
        return list(takewhile(lambda bn: self._rank(judge, conv, bn) < rank, lengths))

    def _with_conv(
        self, judge: Judge, conv: int, cheaper: list[int], answer: Answer, error: float | None
    ) -> Answer:
        """The shortest of ``cheaper`` that holds beside these convolutions, or the answer.

        With confidence, batch normalization is tried from the longest down: where a line begins must not
        depend on what was seen.
        """
        design = partial(self._design, conv)
        places = cheaper if error is None else self.space.possible(design, self.space.bn_lengths)
        judge.images_left += _bisections(places, error is not None) * len(judge.images)
        found = _along(judge, f"{self.name}, conv {conv}, bn", design, places, error, in_vain=IN_VAIN)
        bn = found.word_length
        if bn is None or bn not in cheaper:
            return answer
        before = answer.found
        first = {"conv_search": before.conv_search, "conv_at_bn_start": before.conv_at_bn_start}
        ruled_out = {} if before.ruled_out is UNSET else before.ruled_out
        entry = _entry(found, conv=conv, bn=bn, bn_search=tried(found), ruled_out=ruled_out, **first)
        return Answer(entry, design(bn), self._rank(judge, conv, bn))

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Word lengths of the convolutions and of batch normalization that the target has."""
        lengths = sorted({*self.space.lengths, self.space.bn_start})
        for conv in self._lengths():
            for bn in self.space.possible(partial(self._design, conv), lengths):
                yield conv, bn

    def admitted(self, judge: Judge) -> Iterator[tuple[Rank, Design]]:
        for conv, bn in self.pairs():
            if judge.has_seen_hold(self._design(conv, bn)):
                yield self._rank(judge, conv, bn), self._design(conv, bn)

    def adopted(self, answer: Answer, rank: Rank, design: Design, evaluation: Evaluation) -> Answer:
        return _adopted(answer, rank, design, evaluation, conv=int(rank[1]), bn=int(rank[2]))


@dataclass(frozen=True)
class ByLayer:
    """Word lengths of the layers first, with batch normalization at ``bn_start`` bits, then batch
    normalization's (``radixpoint.searching.allocate``)."""

    name: str
    space: Space

    @cached_property
    def _layers(self) -> dict[str, Products]:
        return product_layers(self.space.graph, bool(self.space.options.get("unsigned")))

    @cached_property
    def _others(self) -> int:
        """Bits of parameters that a limit of memory counts besides weights."""
        return other_parameters(self.space.graph, self._start) if self.name == "per-layer" else 0

    def check(self) -> None:
        space = self.space
        check_policy(self.name, space.lengths, space.bn_start, space.options, space.graph)
        check_by_layer(self._start)
        space.possible(lambda w: at_length(self._start, w), space.lengths)
        if self.name != "per-layer":
            return
        check_constraints(self._layers, space.lengths, self._constraints, self._others)
        for name, own in self._layers.items():
            fixed = space.constraints.fixed.get(name)
            for pair in product(space.lengths, space.lengths) if fixed is None else [(fixed, fixed)]:
                own.cost(pair, space.objective)

    def evaluations(self) -> int:
        steps = _bisections(self.space.lengths) + IN_VAIN - 1
        if self.name == "greedy":
            return (len(self._layers) * len(self.space.lengths)).bit_length() + 2 + steps
        return POINTS + HALVINGS + steps

    @cached_property
    def _constraints(self) -> Constraints:
        """Those that are asked for, and the target's word lengths."""
        own, target = self.space.constraints, self.space.target
        if target is None:
            return own
        words, most = target.words, target.memory.parameters
        if most is not None:
            own = replace(own, memory=min(own.memory or sys.maxsize, int(most * 8192)))
        return replace(own, weights=words.weights or UNSET, activations=words.activations or UNSET)

    @property
    def _start(self) -> Design:
        return Design.separate(self.space.lengths[-1], self.space.bn_start, **self.space.options)

    def _allocated(self, allocation: Allocation) -> Design:
        return self.space.fitted(allocated(self._start, allocation, self.space.graph))

    def _has(self, allocation: Allocation) -> bool:
        """Whether the target has word lengths for it."""
        try:
            self._allocated(allocation)
        except DesignError:
            return False
        return True

    def _price(self, allocation: Allocation) -> float:
        objective = self.space.objective if self.name == "per-layer" else "multipliers"
        return sum(self._layers[name].cost(pair, objective) for name, pair in allocation.items())

    def _sensitivity(self, judge: Judge, plain: Design) -> Sensitivity:
        lengths, fixed = self.space.lengths, self.space.constraints.fixed
        found: Sensitivity = judge.measured("sensitivity", plain, lengths, Sensitivity, Losses.measure)
        apart = {name: w for name, w in fixed.items() if w not in lengths}
        if not apart:
            return found
        more = judge.measured(
            *("sensitivity", plain, lengths, Sensitivity),
            lambda losses, progress: losses.measure(progress, apart),
            str(sorted(apart.items())),
        )
        return found.joined(more)

    def _along_frontier(
        self, judge: Judge, plain: Design, error: float | None
    ) -> tuple[Sensitivity, list[Allocation], Found]:
        """Losses, allocations with the cheapest first, and which of them holds."""
        space = self.space
        sensitivity = self._sensitivity(judge, plain)

        def judged(allocation: Allocation) -> Judged:
            judge.images_left -= len(judge.images)
            later = path[next((i for i, other in enumerate(path) if other is allocation), len(path)) + 1 :]
            judge.expect([self._allocated(other) for other in later])
            text = f"{self.name}, point of cost {self._price(allocation):.6g}"
            return judge.judge(text, self._allocated(allocation), True, _half(error))

        limits = (space.objective, self._constraints, self._others)
        ruled_out: dict[str, str] = {}

        def runs(allocation: Allocation) -> bool:
            why = judge.ruled_out(self._allocated(allocation))
            if why:
                ruled_out[f"{self.name}, point of cost {self._price(allocation):.6g}"] = why
            return not why

        path = [
            allocation
            for allocation in frontier(sensitivity, self._layers, POINTS, *limits)[::-1]
            if runs(allocation)
        ]
        if not path:
            return sensitivity, path, Found(None, None, True, {}, ruled_out)
        if error is not None:  # nothing that was seen may propose a design
            found = confident(lambda i, _: judged(path[i]), range(len(path)))
            return sensitivity, path, dataclasses.replace(found, ruled_out=ruled_out)
        verdicts = [judged(allocation) for allocation in path]
        for _ in range(HALVINGS):
            place = cheapest(verdicts).word_length
            if not place:  # none holds, or the cheapest of all does
                break
            budget = math.sqrt(sensitivity.loss(path[place]) * sensitivity.loss(path[place - 1]))
            allocation = allocate(sensitivity, self._layers, budget, *limits)
            if (
                allocation is None
                or any(dict(allocation) == dict(other) for other in path)
                or not runs(allocation)
            ):
                break
            path.insert(place, allocation)
            verdicts.insert(place, judged(allocation))
        return sensitivity, path, dataclasses.replace(cheapest(verdicts), ruled_out=ruled_out)

    def _along_greedy(
        self, judge: Judge, plain: Design, error: float | None
    ) -> tuple[list[Allocation], Found]:
        kind = list[dict[str, tuple[int, int]]]
        path = judge.measured("greedy", plain, self.space.lengths, kind, greedy)[::-1]  # the cheapest first
        path = [allocation for allocation in path if self._has(allocation)]
        if error is not None:  # some of them, since each takes every image
            last = len(path) - 1
            path = [path[i] for i in sorted({round(last * k / POINTS) for k in range(POINTS + 1)})]
        designs = [self._allocated(allocation) for allocation in path]
        text = f"{self.name}, bn {self.space.bn_start}, point"
        return path, _along(judge, text, lambda i: designs[i], range(len(path)), _half(error), "")

    def run(self, judge: Judge, error: float | None) -> Answer:
        plain = replace(self._start, refine=[])
        extra: dict[str, Any] = {}
        if self.name == "greedy":
            path, found = self._along_greedy(judge, plain, error)
        else:
            sensitivity, path, found = self._along_frontier(judge, plain, error)
            extra["frontier"] = [
                Point(
                    **asdict(found.tried[i][0]),
                    predicted_loss=sensitivity.loss(allocation),
                    cost=self._price(allocation),
                    average=averages(self._layers, allocation),
                    layers=dict(allocation),
                )
                for i, allocation in enumerate(path)
                if i in found.tried
            ]
        point = found.word_length
        if point is None:
            entry, _ = _with_bn(judge, self.space, self.name, found, lambda w: plain, error, 1)
            return Answer(replace(entry, **extra), None, None)
        chosen = self._allocated(path[point])

        def with_width(w: int) -> Design:
            return self.space.fitted(replace(chosen, classes={**chosen.classes, "bn": Widths.all(w)}))

        entry, bn = _with_bn(judge, self.space, self.name, found, with_width, error, len(path))
        entry = replace(entry, **self._about(path[point]), **extra)
        if bn is None:
            return Answer(entry, None, None)
        return Answer(entry, with_width(bn), (self._price(path[point]), bn))

    def _about(self, allocation: Allocation) -> dict[str, Any]:
        return {"conv": None, "layers": dict(allocation), "average": averages(self._layers, allocation)}

    def admitted(self, judge: Judge) -> Iterator[tuple[Rank, Design]]:
        """Designs with one word length for all layers, where the constraints allow them.

        None on a target, whose fitted words are not the word length that is priced here.
        """
        space = self.space
        if space.target is not None:
            return
        for w, bn in product(space.lengths, sorted({*space.lengths, space.bn_start})):
            allocation = dict.fromkeys(self._layers, (w, w))
            stored = sum(self._layers[name].weights * w for name in allocation) + self._others
            roomy = space.constraints.memory is None or stored <= space.constraints.memory
            design = Design.separate(w, bn, **space.options)
            fixed = all(bits == w for bits in space.constraints.fixed.values())
            if roomy and fixed and judge.has_seen_hold(design):
                yield (self._price(allocation), bn), design

    def adopted(self, answer: Answer, rank: Rank, design: Design, evaluation: Evaluation) -> Answer:
        w = design.classes["conv"].weights or 0
        about = self._about(dict.fromkeys(self._layers, (w, w)))
        return _adopted(answer, rank, design, evaluation, bn=int(rank[1]), **about)


LAYERED = ("greedy", "per-layer")
"""Strategies with a word length for each layer."""
STRATEGIES: dict[str, Callable[[Space], Strategy]] = {
    "joint": Joint,
    **{name: partial(TwoStages, name) for name in POLICIES if name != "joint"},
    **{name: partial(ByLayer, name) for name in LAYERED},
}
"""By the name that they are asked for; a user may add to them."""
