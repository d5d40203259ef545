"""The search: smallest word lengths under a limit on the accuracy drop.

It knows only design -> score. Whatever it finds out is in the run folder at once, keyed by content, so that a
search that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
from msgspec import UNSET
from msgspec.structs import asdict, replace

from radixpoint.accelerator.target import HardwareTarget
from radixpoint.data import ImageSet
from radixpoint.engines import check_engine
from radixpoint.errors import DataError, DesignError
from radixpoint.files import write_whole
from radixpoint.ir.graph import Graph
from radixpoint.measure.calibrate import Ranges, judged_as
from radixpoint.measure.intervals import better_than_chance
from radixpoint.measure.metrics import Metric, TopK, find_metric
from radixpoint.measure.pairs import check_resamples
from radixpoint.quantization.design import Design
from radixpoint.quantization.equalize import pairs
from radixpoint.quantization.quantize import Quantizer
from radixpoint.searching.allocate import Constraints, Objective
from radixpoint.searching.cache import Cache
from radixpoint.searching.criterion import Criterion
from radixpoint.searching.executor_names import make_executor
from radixpoint.searching.executors import Executor, Job
from radixpoint.searching.facts import FILE as FACTS
from radixpoint.searching.facts import facts_of
from radixpoint.searching.judge import Judge
from radixpoint.searching.measured import FloatNetwork
from radixpoint.searching.result import (
    FILE,
    Cell,
    FloatAccuracy,
    Images,
    PolicyResult,
    Result,
    Settings,
)
from radixpoint.searching.run_folder import ANSWER, check_earlier, check_place, open_run_folder
from radixpoint.searching.strategies import LAYERED, STRATEGIES, Answer, Rank, Space, Strategy, TwoStages
from radixpoint.searching.watcher import Watcher


@dataclass(frozen=True)
class _Task:
    """What is asked for: which designs are tried, and on which images they are judged."""

    space: Space
    strategies: tuple[Strategy, ...]
    criterion: Criterion
    metric: Metric
    images: ImageSet
    calibration: ImageSet
    held_out: ImageSet | None
    grid: bool

    @property
    def graph(self) -> Graph:
        return self.space.graph

    @property
    def judged_on(self) -> list[ImageSet]:
        """The searched images, and those held out."""
        return [self.images, *([] if self.held_out is None else [self.held_out])]

    @property
    def evaluations(self) -> int:
        """Of designs, at most."""
        cells = len(self.space.lengths) ** 2 if self.grid else 0
        return sum(strategy.evaluations() for strategy in self.strategies) + cells

    def check(self) -> None:
        """Refuse what is impossible, before any work.

        Raises:
            DataError, DesignError: it is.
            ModelError: blocks are to be refined, and PyTorch is not installed.
        """
        graph, space = self.graph, self.space
        names = {strategy.name for strategy in self.strategies}
        if len(space.lengths) < 2 and names & set(LAYERED):
            raise DesignError(
                f"word lengths {list(space.lengths)}: expected at least two for {' and '.join(LAYERED)}"
            )
        if space.objective not in get_args(Objective):
            raise DesignError(
                f"objective {space.objective!r}: expected one of {', '.join(get_args(Objective))}"
            )
        if "per-layer" not in names and (
            space.constraints != Constraints() or space.objective != "multipliers"
        ):
            raise DesignError(
                f"an objective or constraints with policies {', '.join(sorted(names))}: expected per-layer, "
                "which keeps to them"
            )
        for strategy in (*self.strategies, *([STRATEGIES["separate"](space)] if self.grid else [])):
            strategy.check()
        if space.options.get("equalize"):
            pairs(graph)
        if "blocks" in space.options.get("refine", ()):
            from radixpoint.importers.torch import require_torch

            require_torch("refining blocks")
        self.calibration.check_shape(graph.shapes[graph.input])
        for image_set in self.judged_on:
            self.metric.check(graph, image_set)
        error = self.criterion.error
        if error is not None and getattr(self.metric, "total", False):
            check_resamples(error / len(self.strategies) / 2 / len(space.lengths))  # the smallest share

    def settings(self) -> Settings:
        """As ``result.json`` has them."""
        return Settings(
            criterion=self.criterion,
            options=msgspec.json.decode(msgspec.json.encode(self.space.options)),
            objective=self.space.objective,
            constraints=self.space.constraints,
            word_lengths=list(self.space.lengths),
            bn_start=self.space.bn_start,
            network=self.graph.digest,
            images=Images.of(self.images),
            calibration=Images.of(self.calibration),
            held_out=None if self.held_out is None else Images.of(self.held_out),
            preprocessing=self.images.preprocessing,
            target=UNSET if self.space.target is None else self.space.target,
        )

    def answers(self, judge: Judge) -> dict[str, Answer]:
        """What each strategy finds, or a better design that another one came by."""
        error = self.criterion.error
        share = None if error is None else error / len(self.strategies)
        found = {strategy.name: strategy.run(judge, share) for strategy in self.strategies}
        return {
            strategy.name: _best_admitted(strategy, found[strategy.name], judge)
            for strategy in self.strategies
        }


def _check_chance(judge: Judge, allowed: bool) -> None:
    """Refuse to search with a float network that knows nothing: any number of bits would do.

    Raises:
        DataError: its accuracy cannot be told from guessing.
    """
    metric = judge.metric
    if not isinstance(metric, TopK):
        return
    outputs, seen = judge.graph.classes, judge.ranges.outcomes[judged_as(judge.images, metric)]
    named = seen.table[:, 1].astype(np.int64)
    # answers and labels that know nothing of each other meet as often as their frequencies say
    answers, labels = (np.bincount(x, minlength=outputs) / len(seen) for x in (named, judge.images.labels))
    habit = float((answers * labels).sum())
    hits, guessing = metric.hits(seen), metric.k / outputs
    if better_than_chance(hits, guessing) and better_than_chance(TopK(1).hits(seen), habit):
        return
    text = (
        f"{judge.images.source}: the float network is right on {100 * hits.mean():.2f} % of {len(hits)} "
        f"images ({metric.name}), which cannot be told from guessing among {outputs} classes "
        f"({100 * guessing:.2f} %, and {100 * habit:.2f} % if its best answers had nothing to do with the "
        "labels): are the preprocessing and the order of the classes the network's?"
    )
    if not allowed:
        raise DataError(f"{text} --at-chance searches all the same")
    judge.watcher.warned(text)


def _best_admitted(strategy: Strategy, answer: Answer, judge: Judge) -> Answer:
    """The strategy's answer, or a better design that it admits and that some strategy has seen hold.

    Accuracy is not monotone in word lengths: one strategy may come by a design that another's path misses.
    """
    better: list[tuple[Rank, Design]] = sorted(
        (
            (rank, design)
            for rank, design in strategy.admitted(judge)
            if answer.rank is None or rank < answer.rank
        ),
        key=lambda pair: pair[0],
    )
    for rank, design in better:
        held = judge.held[design.to_json()]
        evaluation, verdict = judge.judge(f"{strategy.name}, seen before", design, True, held.error)
        if verdict == "holds":
            return strategy.adopted(answer, rank, design, evaluation)
    return answer


def open_judges(
    graph: Graph,
    image_sets: Sequence[ImageSet],
    calibration: ImageSet,
    folder: str | Path,
    cache: str | Path | None = None,
    watcher: Watcher | None = None,
    criterion: Criterion | None = None,
    threads: int = 0,
    ranges: Ranges | None = None,
    engine: str = "auto",
    metric: Any = None,
    executor: str | Executor = "here",
    target: HardwareTarget | None = None,
) -> list[Judge]:
    """A judge for each set of images, in a run folder; the arguments are those of ``search``.

    Raises:
        DataError, RunError: what was given cannot be used.
    """
    watcher, run, asked = watcher or Watcher(), open_run_folder(Path(folder)), criterion or Criterion()
    chosen = find_metric(asked.metric if metric is None else metric)
    kept = Cache(run / "cache" if cache is None else Path(cache), watcher.warned)
    measured = FloatNetwork(graph, calibration, run, kept, watcher, chosen).ranges(ranges, image_sets)
    quantizer = Quantizer(graph, measured, calibration)
    runs = make_executor(executor, run) if isinstance(executor, str) else executor
    try:
        runs.open(Job({i.digest: i for i in image_sets}, chosen, engine, threads, str(kept.folder.resolve())))
    except BaseException:
        runs.close()
        raise
    own = (measured, quantizer, kept, watcher, asked, chosen, runs)
    return [Judge(graph, images, *own, target=target) for images in image_sets]


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
    ranges: Ranges | None = None,
    replaces: bool = False,
    at_chance: bool = False,
    engine: str = "auto",
    metric: Any = None,
    executor: str | Executor = "here",
    target: HardwareTarget | str | Path | None = None,
    **options: Any,
) -> Result:
    """Find the smallest word lengths under the criterion.

    ``joint`` is one word length everywhere. ``separate`` (Kang 2018) finds the smallest convolution word
    length with batch normalization at ``bn_start`` bits, then the smallest batch normalization word length
    that still holds with it, or a pair with longer convolutions where its multipliers cost less; so do the
    other policies of ``radixpoint.searching.policies.POLICIES``.
    ``greedy`` and ``per-layer`` first find the word lengths of the layers
    (``radixpoint.searching.allocate``). No policy's answer is worse than a design that another one has
    seen hold and that it could have given itself.

    Args:
        graph: the network.
        images: to judge accuracy on.
        calibration: to choose binary points from.
        folder: the run folder; what an interrupted search left there is taken up.
        criterion: default 1.0 percentage point of top-1.
        metric: instead of the criterion's: a name, a function or an object, as
            ``radixpoint.measure.metrics.find_metric`` takes it.
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
        ranges: what was measured of the float network, on this machine or another: from
            ``radixpoint.calibrate``, or ``ranges.npz`` of a run folder. From the same, every machine gets the
            same result. Default: what the run folder holds, or it is measured.
        replaces: whether the result of another search in the folder may be replaced.
        at_chance: go on with a float network that is no better than guessing.
        engine: what runs the designs: a name for ``radixpoint.make_engine``. No result depends on it.
        executor: who evaluates the designs: ``here``; ``ray``, or ``ray:ADDRESS`` of a cluster; ``folder``,
            for workers that share the run folder (``radixpoint worker``). No result depends on it.
        target: hardware that every design has to run on, or the name of its file; see
            ``radixpoint.accelerator.target``. Of each word length a design has the longest up to it that the
            target has, and where ``options`` do not choose, the target's first form.
        options: further fields of ``radixpoint.quantization.design.Design``.

    Returns:
        What is written to ``result.json`` (``docs/result.md``).

    Raises:
        DataError, DesignError, EngineError, RunError: what was given cannot be used.
    """
    check_engine(engine, threads)
    watcher, lengths = watcher or Watcher(), tuple(sorted(set(word_lengths)))
    if not lengths or not policies or set(policies) - set(STRATEGIES):
        raise DesignError(
            f"policies {list(policies)} with word lengths {list(lengths)}: expected some of "
            f"{', '.join(STRATEGIES)}, and at least one word length"
        )
    hardware = HardwareTarget.load(target) if isinstance(target, str | Path) else target
    if hardware is not None:
        options, bn_start = hardware.options(options), hardware.bn_start(bn_start)
    space = Space(graph, lengths, bn_start, options, objective, constraints or Constraints(), hardware)
    strategies = tuple(STRATEGIES[name](space) for name in dict.fromkeys(policies))
    judged_by = find_metric((criterion or Criterion()).metric if metric is None else metric)
    asked = replace(criterion or Criterion(), metric=judged_by.name)
    task = _Task(space, strategies, asked, judged_by, images, calibration, held_out, grid)
    task.check()
    if ranges is not None:
        ranges.check(graph, calibration)
    overlap = _overlap(images, calibration, held_out, watcher)
    if graph.nothing_to_separate:
        watcher.warned(
            f"{graph.source}: no batch normalization: if it was trained with it, the exporter folded it into "
            "the convolutions, and there is nothing to separate (docs/importing.md says how to keep it)"
        )
    if cache is not None:
        Cache(Path(cache), watcher.warned)  # one that cannot be used is refused before anything is made
    run, settings = open_run_folder(Path(folder)), task.settings()
    if not replaces:
        check_earlier(run, settings, [strategy.name for strategy in strategies], grid)
    for strategy in strategies:
        check_place(run / strategy.name)
    judge, *reporters = open_judges(
        *(graph, task.judged_on, calibration, run, cache, watcher, task.criterion, threads, ranges, engine),
        judged_by,
        executor,
        hardware,
    )
    try:
        _check_chance(judge, at_chance)
        judge.images_left = len(images) * task.evaluations
        answers = task.answers(judge)
        cells = _grid(judge, space) if grid else UNSET
        judge.expect([])
        result = Result(
            **asdict(settings),
            version=version("radixpoint"),
            ranges=judge.ranges.content,
            overlap=overlap,
            floating=FloatAccuracy.of(judge.float_evaluation),
            policies=_reported(answers, judge, reporters, run),
            grid=cells,
        )
    finally:
        judge.executor.close()
    write_whole(run / FILE, result.encoded())
    return result


def _reported(
    answers: Mapping[str, Answer], judge: Judge, reporters: Sequence[Judge], run: Path
) -> dict[str, PolicyResult]:
    """Write each answer, and tell what it costs and what it is worth on held-out images."""
    costs: dict[str, int | None] = {}
    for name, answer in answers.items():
        if answer.design is None:
            for file in ANSWER:  # of an earlier search with other options
                (run / name / file).unlink(missing_ok=True)
        else:
            costs[name] = judge.save(answer.design, run / name)
            outcomes = judge.outcomes(f"{name}, all images", answer.design)
            facts = facts_of(judge.quantizer, answer.design, judge.images, outcomes, judge.metric)
            write_whole(run / name / FACTS, facts.encoded())
    base, found = costs.get("joint"), {}
    for name, answer in answers.items():
        entry = answer.found
        if name in costs:
            cost = costs[name]
            relative = None if cost is None or base is None else cost / base
            entry = replace(entry, multiplier_cost=cost, relative_cost=relative)
        if reporters and answer.design is not None:
            reported, _ = reporters[0].judge(f"{name}, held out", answer.design, whole=True)
            entry = replace(entry, held_out=reported)
        found[name] = entry
    return found


def _grid(judge: Judge, space: Space) -> list[Cell]:
    """Every pair of word lengths, on every image."""
    cells = []
    places = [pair for pair in TwoStages("separate", space).pairs() if pair[1] in space.lengths]
    designs = {(conv, bn): space.fitted(Design.separate(conv, bn, **space.options)) for conv, bn in places}
    designs = {place: design for place, design in designs.items() if not judge.ruled_out(design)}
    for number, ((conv, bn), design) in enumerate(designs.items(), 1):
        judge.expect(list(designs.values())[number:])
        evaluation, verdict = judge.judge(f"grid {conv} x {bn} bits", design, whole=True)
        judge.images_left -= len(judge.images)
        cells.append(Cell(**asdict(evaluation), conv=conv, bn=bn, verdict=verdict))
    return cells


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
