"""What a search found: ``result.json`` is ``Result``, and ``docs/result.md`` says the same in words.

Accuracies are in percent, drops in percentage points, costs in partial-product bits an image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from radixpoint.accelerator.target import HardwareTarget
from radixpoint.data import ImageSet, Preprocessing
from radixpoint.files import read_json
from radixpoint.measure.evaluate import Evaluation
from radixpoint.searching.allocate import Averages, Constraints, Objective
from radixpoint.searching.criterion import Criterion, Verdict
from radixpoint.tables import Chart, Row, Tabular, ends

FILE = "result.json"


class Trial(Evaluation, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A design that was tried: ``word_length`` is its place on the line that was searched."""

    word_length: int
    verdict: Verdict


class Point(Evaluation, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A design on the frontier of ``per-layer``, judged on every image.

    Attributes:
        predicted_loss: sum of its layers' losses.
        cost: in the unit of the objective.
        average: of its word lengths.
        layers: word length of weights and of activations, by layer.
    """

    predicted_loss: float
    cost: float
    average: Averages
    layers: dict[str, tuple[int, int]]


class Cell(Evaluation, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pair of word lengths on the grid, judged on every image."""

    conv: int
    bn: int
    verdict: Verdict


class PolicyResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one policy found. Fields of the answer are None if no design holds; a field that a policy does
    not have is not there.

    Attributes:
        word_length: of ``joint``.
        conv, bn: word lengths of the others; ``conv`` is None where each layer has its own.
        score, top1, top5, drop, drop_interval, agreement: of the answer on all searched images.
        drop_bound: with confidence, the drop is at most this.
        monotone: false if the next longer word length (of ``per-layer``: any dearer design) fails.
        adopted: whether another policy's search found the answer.
        tried: every design of the last stage.
        conv_search, bn_search: the same of each stage.
        conv_at_bn_start: the answer of the first stage.
        layers: word length of weights and of activations, by layer.
        average: of those.
        frontier: of ``per-layer``, the cheapest first.
        multiplier_cost: of the answer; None for coded operands.
        relative_cost: over that of ``joint``.
        held_out: the answer on images that took no part.
        ruled_out: why the target cannot run designs that were otherwise in question, by what they are.
    """

    word_length: int | UnsetType | None = UNSET
    conv: int | UnsetType | None = UNSET
    bn: int | UnsetType | None = UNSET
    score: float | None
    top1: float | UnsetType | None = UNSET
    top5: float | UnsetType | None = UNSET
    drop: float | None
    drop_interval: tuple[float, float] | None
    drop_bound: float | None
    agreement: float | None
    monotone: bool
    adopted: bool = False
    tried: list[Trial]
    conv_search: list[Trial] | UnsetType = UNSET
    bn_search: list[Trial] | UnsetType | None = UNSET
    conv_at_bn_start: Evaluation | UnsetType | None = UNSET
    layers: dict[str, tuple[int, int]] | UnsetType = UNSET
    average: Averages | UnsetType = UNSET
    frontier: list[Point] | UnsetType = UNSET
    multiplier_cost: int | UnsetType | None = UNSET
    relative_cost: float | UnsetType | None = UNSET
    held_out: Evaluation | None = None
    ruled_out: dict[str, str] | UnsetType = UNSET

    @property
    def lengths(self) -> str:
        """Word lengths of the answer: of everything, or of convolutions and batch normalization."""
        if self.word_length is not UNSET:
            return str(self.word_length)
        if self.conv is None and self.average is not UNSET:
            return f"{self.average.weight:.2f} x {self.average.operand:.2f}/{self.bn}"
        return f"{self.conv}/{self.bn}"

    @property
    def holds(self) -> bool:
        """Whether some design holds."""
        return self.drop is not None

    @property
    def stages(self) -> list[tuple[str, list[Trial]]]:
        """What was tried, stage by stage, each with what its word lengths are of."""
        found = []
        if self.conv_search is not UNSET and self.conv_search:
            layered = self.frontier is not UNSET or self.layers is not UNSET
            what = "places on the way to fewer bits" if layered else "word length of the convolutions"
            found.append((what, self.conv_search))
        if self.bn_search is not UNSET and self.bn_search:
            found.append(("word length of batch normalization", self.bn_search))
        return found or [("word length", self.tried)]


class Images(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which images: their content, how many, and which could not be read, each with the reason."""

    digest: str
    count: int
    unreadable: list[tuple[str, str]]

    @classmethod
    def of(cls, images: ImageSet) -> Images:
        return cls(images.digest, len(images), list(images.unreadable))


class FloatAccuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of the float network on the searched images; top1 and top5 where labels are ranked."""

    score: float
    top1: float | UnsetType = UNSET
    top5: float | UnsetType = UNSET

    @classmethod
    def of(cls, evaluation: Evaluation) -> FloatAccuracy:
        return cls(evaluation.float_score, evaluation.float_top1, evaluation.float_top5)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was searched: a search with other settings has another result.

    Attributes:
        options: further fields of the designs.
        network: SHA-256 of the float network.
        target: the hardware that designs had to run on; not there if any.
    """

    criterion: Criterion
    options: dict[str, Any]
    objective: Objective
    constraints: Constraints
    word_lengths: list[int]
    bn_start: int
    network: str
    images: Images
    calibration: Images
    held_out: Images | None
    preprocessing: Preprocessing | None
    target: HardwareTarget | UnsetType = UNSET


class Result(Tabular, Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a search found.

    Attributes:
        version: of radixpoint.
        ranges: SHA-256 of what was measured of the float network.
        overlap: how many images serve twice, by which sets share them.
        floating: accuracy of the float network.
        policies: what each found.
        grid: every pair of word lengths, if it was asked for.
    """

    radixpoint_result: Literal[3] = 3
    version: str
    ranges: str
    overlap: dict[str, int]
    floating: FloatAccuracy = msgspec.field(name="float")
    policies: dict[str, PolicyResult]
    grid: list[Cell] | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"<{self.summary()}>"

    def summary(self) -> str:
        """It in a line."""
        answers = ", ".join(
            f"{name} {policy.lengths}" if policy.holds else f"{name} none"
            for name, policy in self.policies.items()
        )
        return (
            f"Result on {self.images.count:,} images, {self.criterion.metric} within {self.limit}: {answers}"
        )

    @property
    def limit(self) -> str:
        """The drop that is allowed, with a percent sign where it is relative."""
        return f"{self.criterion.limit:g}" + (" %" if self.criterion.relative else "")

    def rows(self) -> list[Row]:
        """A row for each design that was tried."""
        return [
            {
                "strategy": name,
                "of": what,
                "word_length": trial.word_length,
                "images": trial.images,
                "score": trial.score,
                "drop": trial.drop,
                **ends("drop", trial.drop_interval),
                "agreement": trial.agreement,
                "verdict": trial.verdict,
            }
            for name, policy in self.policies.items()
            for what, trials in policy.stages
            for trial in sorted(trials, key=lambda trial: trial.word_length)
        ]

    def chart(self) -> Chart:
        """The drop against the word length, of the first stage of each strategy, and the limit."""
        first = {name: policy.stages[0][1] for name, policy in self.policies.items()}
        tried = {name: sorted(t, key=lambda trial: trial.word_length) for name, t in first.items() if t}
        allowed = self.criterion.limit
        if self.criterion.relative:
            allowed *= abs(self.floating.score) / 100
        return Chart(
            {name: [float(t.word_length) for t in trials] for name, trials in tried.items()},
            {name: [t.drop for t in trials] for name, trials in tried.items()},
            ("word length, bits", f"drop of {self.criterion.metric}"),
            {name: [t.drop_interval for t in trials] for name, trials in tried.items()},
            (allowed, "limit"),
        )

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read a ``result.json``.

        Raises:
            RunError: it cannot be read, or is none.
        """
        return read_json(path, cls, "a result")

    def encoded(self) -> bytes:
        """The file's content; the same result gives the same bytes."""
        return msgspec.json.format(msgspec.json.encode(self)) + b"\n"
