"""Searches along one line of designs, the shortest word length or the cheapest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from radixpoint.measure.evaluate import Evaluation
from radixpoint.searching.criterion import Verdict

Judged = tuple[Evaluation, Verdict]


@dataclass(frozen=True)
class Found:
    """Result of a search along one line: the place that holds, by word length or number.

    ``ruled_out``: why the target cannot run a design, by what it is.
    """

    word_length: int | None
    evaluation: Evaluation | None
    monotone: bool
    tried: dict[int, Judged]
    ruled_out: Mapping[str, str] = field(default_factory=dict)


Expect = Callable[[Sequence[int]], None]
"""Told which places may be asked about next."""


def _nothing(places: Sequence[int]) -> None:
    """Told, and does nothing."""


def smallest(
    judge: Callable[[int, bool], Judged],
    word_lengths: Sequence[int],
    expect: Expect = _nothing,
    in_vain: int = 1,
) -> Found:
    """Smallest word length that holds: bisection, then both neighbours are verified.

    The answer has been evaluated on every image, and the word lengths below it fail, as many as ``in_vain``
    says. ``monotone`` is false if the one above the answer fails, or one that holds was found below one that
    fails. If the longest fails there is no answer.

    Args:
        judge: (word length, on every image?) -> evaluation and verdict.
        word_lengths: ascending.
        expect: told what may be asked about after the next question, whichever way that is answered.
        in_vain: how many word lengths below the answer are to fail in a row, where there are so many.
    """
    tried: dict[int, Judged] = {}

    def holds(index: int, whole: bool = False) -> bool:
        tried[word_lengths[index]] = judge(word_lengths[index], whole)
        return tried[word_lengths[index]][1] == "holds"

    def next_of(low: int, high: int) -> Sequence[int]:
        """What is asked about once ``low`` fails and ``high`` holds."""
        if high - low > 1:
            return [word_lengths[(low + high) // 2]]
        return word_lengths[high : high + 2]

    last = len(word_lengths) - 1
    low, high = -1, last  # low fails (or is below the range), high holds
    expect(next_of(low, high))
    if not holds(high):
        return Found(None, None, True, tried)
    while True:
        while high - low > 1:
            middle = (low + high) // 2
            expect([*next_of(low, middle), *next_of(middle, high)])
            if holds(middle):
                high = middle
            else:
                low = middle
        expect(word_lengths[high + 1 : high + 2])
        if holds(high, whole=True):
            break
        low = high  # every image says otherwise than the first ones did
        high += 1
        if high > last:
            return Found(None, None, False, tried)
    monotone = high == last or word_lengths[high + 1] in tried or holds(high + 1)
    monotone = monotone and (high == last or tried[word_lengths[high + 1]][1] == "holds")
    below = high - 1
    while below >= max(high - in_vain, 0):
        if word_lengths[below] not in tried:
            expect(word_lengths[max(high - in_vain, 0) : below])
            if holds(below) and holds(below, whole=True):
                high, monotone = below, monotone and high == below + 1
        below -= 1
    evaluation = tried[word_lengths[high]][0]
    return Found(word_lengths[high], evaluation, monotone, tried)


def cheapest(judged: Sequence[Judged]) -> Found:
    """The first that holds of designs judged on every image, the cheapest first.

    ``word_length`` is its place; ``monotone`` is false if a dearer one fails.
    """
    tried = dict(enumerate(judged))
    holding = [i for i, (_, verdict) in tried.items() if verdict == "holds"]
    if not holding:
        return Found(None, None, True, tried)
    first = holding[0]
    return Found(first, tried[first][0], len(holding) == len(judged) - first, tried)


def confident(
    judge: Callable[[int, bool], Judged], places: Sequence[int], expect: Expect = _nothing
) -> Found:
    """The last that holds before the first that fails, from the longest or dearest down.

    The order is fixed before anything is looked at. So the first design on the way whose drop is really
    beyond the limit passes with no more than the error of one test, and none after it is asked about
    (fixed-sequence testing: Angelopoulos et al., "Learn then Test", Ann. Appl. Stat. 19(2), 2025, section 4).

    Args:
        judge: (place, on every image?) -> evaluation and verdict, each by a test of the same error.
        places: ascending.
        expect: told which places come next.
    """
    tried: dict[int, Judged] = {}
    best: int | None = None
    order = list(reversed(places))
    for number, place in enumerate(order):
        expect(order[number + 1 : number + 3])
        tried[place] = judge(place, True)
        if tried[place][1] != "holds":
            break
        best = place
    return Found(best, None if best is None else tried[best][0], True, tried)
