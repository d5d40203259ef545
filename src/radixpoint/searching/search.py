"""The search: smallest word lengths under a limit on the accuracy drop.

It knows only design -> score. Whatever it finds out is in the run folder at once, keyed by content, so that a
search that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np

from radixpoint.data import ImageSet
from radixpoint.errors import DataError, DesignError, RunError
from radixpoint.files import is_partial, read_regular, sweep, write_whole
from radixpoint.ir.graph import Graph
from radixpoint.measure.calibrate import Ranges, calibrate, float_outcomes
from radixpoint.measure.intervals import better_than_chance
from radixpoint.measure.metrics import BEST, Outcomes
from radixpoint.quantization.design import Design
from radixpoint.quantization.equalize import pairs
from radixpoint.quantization.quantize import Quantizer
from radixpoint.searching.allocate import Constraints, Objective
from radixpoint.searching.cache import Cache
from radixpoint.searching.criterion import Criterion
from radixpoint.searching.judge import Judge
from radixpoint.searching.policies import POLICIES
from radixpoint.searching.strategies import LAYERED, Answer, Rank, Space, Strategy, strategy
from radixpoint.searching.watcher import Watcher

RESULT_VERSION = 2
RESULT = "result.json"
_MARKER = b'{"radixpoint_run": 1}\n'
_MOST_BYTES = 1 << 30
"""Of a result."""
RANGES = "ranges.npz"
ANSWER = ("design.json", "network.safetensors")
"""Files of a policy's answer."""
_SETTINGS = (
    *("criterion", "options", "objective", "constraints", "word_lengths", "bn_start", "network", "images"),
    *("calibration", "held_out", "preprocessing"),
)
"""Entries of a result that say what was searched."""


def _run_folder(path: Path) -> Path:
    """Make or reopen a run folder.

    Raises:
        RunError: it cannot be written, or holds something else.
    """
    marker = path / "run.json"
    try:
        path.mkdir(parents=True, exist_ok=True)
        others = [item.name for item in path.iterdir() if not is_partial(item)]
        # another search may have begun here a moment ago: what it makes first is the marker
        if others and not marker.exists() and others != [marker.name]:
            raise NotADirectoryError
        sweep(path)
    except (NotADirectoryError, FileExistsError):
        raise RunError(
            f"{path}: exists and is no run folder of radixpoint: expected a new or empty folder"
        ) from None
    except OSError as error:
        raise RunError(f"{path}: cannot be made: {error.strerror}") from None
    if not marker.exists():
        write_whole(marker, _MARKER)
    try:
        ours = read_regular(marker, len(_MARKER)) == _MARKER
    except OSError:
        ours = False
    if not ours:
        raise RunError(f"{marker}: is not radixpoint's: expected a new or empty folder")
    return path


def _check_earlier(run: Path, settings: dict[str, Any], replaces: bool) -> None:
    """Refuse to replace the result of another search, unless asked to.

    Raises:
        RunError: there is one, with what differs.
    """
    try:
        earlier = msgspec.json.decode(read_regular(run / RESULT, _MOST_BYTES))
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{run / RESULT}: cannot be replaced: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return  # nothing that could be lost
    if replaces or not isinstance(earlier, dict) or not isinstance(earlier.get("policies"), dict):
        return
    asked = {**settings, "policies": settings["policies"]}
    given = {**earlier, "policies": list(earlier["policies"]), "grid": "grid" in earlier}
    differing = [name for name in (*_SETTINGS, "policies", "grid") if given.get(name) != asked.get(name)]
    if differing:
        name = differing[0]
        raise RunError(
            f"{run / RESULT}: is of another search: its {name} is {_brief(given.get(name))}, not "
            f"{_brief(asked.get(name))}: expected another folder (--cache {run / 'cache'} takes over what "
            f"is known "
            "already), or --replace"
        )


def _check_place(folder: Path) -> None:
    """Refuse a place for a policy's answer that holds something else.

    Raises:
        RunError: it does.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is no folder: expected none, or one that a search made")
    for name in ANSWER:
        if (folder / name).exists() and not (folder / name).is_file():
            raise RunError(f"{folder / name}: is no regular file: expected none, or what a search wrote")


def _brief(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Float:
    """What is measured of the float network, from where it is known, and kept in the run folder."""

    def __init__(
        self, graph: Graph, calibration: ImageSet, run: Path, cache: Cache, watcher: Watcher
    ) -> None:
        self.graph, self.calibration, self.run = graph, calibration, run
        self.cache, self.watcher = cache, watcher

    def ranges(self, given: Ranges | None, judged: Sequence[ImageSet]) -> Ranges:
        """Ranges with the outcomes of ``judged``: those given, or of the run folder, or measured."""
        known = given or self._kept() or self._measured()
        for images in judged:
            if images.digest in known.outcomes:
                known.outcomes[images.digest].check(len(images), self.graph.shapes[self.graph.output][0])
                continue
            if given is not None:
                self.watcher.warned(
                    f"the ranges hold no outcomes of {images.source}: the float network runs on this "
                    f"machine, and "
                    "another one might see some images otherwise"
                )
            known = replace(known, outcomes={**known.outcomes, images.digest: self._outcomes(images)})
        wanted = {images.digest for images in judged}
        known = replace(known, outcomes={d: o for d, o in known.outcomes.items() if d in wanted})
        encoded = known.encoded()
        if not (self.run / RANGES).is_file() or (self.run / RANGES).read_bytes() != encoded:
            write_whole(self.run / RANGES, encoded)
        return known

    def _kept(self) -> Ranges | None:
        if not (self.run / RANGES).exists():
            return None
        try:
            found = Ranges.load(self.run / RANGES)
            found.check(self.graph, self.calibration)
        except DataError as error:
            self.watcher.warned(f"{self.run / RANGES}: not used: {error}")
            return None
        return found

    def _key(self, images: ImageSet) -> tuple[str, str, str]:
        return version("radixpoint"), self.graph.digest, images.digest

    def _measured(self) -> Ranges:
        path = self.cache.path("ranges", *self._key(self.calibration))
        known: Ranges | None = self.cache.read(path, Ranges.decoded)
        if known is None:
            self.watcher.stage("calibration", len(self.calibration), 0)
            known = calibrate(self.graph, self.calibration, lambda done, _: self.watcher.progress(done))
            self.cache.write(path, known.encoded())
        return known

    def _outcomes(self, images: ImageSet) -> Outcomes:
        path = self.cache.path("float", *self._key(images))
        known = self.cache.outcomes(path)
        if len(known) != len(images):
            self.watcher.stage("float network", len(images), 0)
            known = float_outcomes(self.graph, images, lambda done, _: self.watcher.progress(done))
            self.cache.keep_outcomes(path, known)
        return known


def _check_chance(judge: Judge, allowed: bool) -> None:
    """Refuse to search with a float network that knows nothing: any number of bits would do.

    Raises:
        DataError: its accuracy cannot be told from guessing.
    """
    criterion, outputs = judge.criterion, judge.graph.shapes[judge.graph.output][0]
    seen = judge.ranges.outcomes[judge.images.digest]
    # answers and labels that know nothing of each other meet as often as their frequencies say
    answers, labels = (
        np.bincount(x, minlength=outputs) / len(seen) for x in (seen.prediction, judge.images.labels)
    )
    habit = float((answers * labels).sum())
    hits, guessing = seen.hits(criterion.metric), BEST[criterion.metric] / outputs
    if better_than_chance(hits, guessing) and better_than_chance(seen.top1, habit):
        return
    text = (
        f"{judge.images.source}: the float network is right on {100 * hits.mean():.2f} % of {len(hits)} "
        f"images "
        f"({criterion.metric}), which cannot be told from guessing among {outputs} classes "
        f"({100 * guessing:.2f} %, "
        f"and {100 * habit:.2f} % if its best answers had nothing to do with the labels): are the "
        f"preprocessing and "
        "the order of the classes the network's?"
    )
    if not allowed:
        raise DataError(f"{text} --at-chance searches all the same")
    judge.watcher.warned(text)


def _best_admitted(one: Strategy, answer: Answer, judge: Judge) -> Answer:
    """The strategy's answer, or a better design that it admits and that some strategy has seen hold.

    Accuracy is not monotone in word lengths, so one strategy may come by a design that another one's path
    misses.
    """
    better: list[tuple[Rank, Design]] = sorted(
        (
            (rank, design)
            for rank, design in one.admitted()
            if (answer.rank is None or rank < answer.rank) and design.to_json() in judge.held
        ),
        key=lambda pair: pair[0],
    )
    for rank, design in better:
        held = judge.held[design.to_json()]
        evaluation, verdict = judge.judge(f"{one.name}, seen before", design, True, held.error)
        if verdict == "holds":
            return one.adopted(answer, rank, design, evaluation)
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
) -> list[Judge]:
    """A judge for each set of images, in a run folder; the arguments are those of :func:`search`.

    Raises:
        DataError, RunError: what was given cannot be used.
    """
    watcher, run = watcher or Watcher(), _run_folder(Path(folder))
    kept = Cache(run / "cache" if cache is None else Path(cache), watcher.warned)
    measured = _Float(graph, calibration, run, kept, watcher).ranges(ranges, image_sets)
    quantizer = Quantizer(graph, measured, calibration)
    return [
        Judge(graph, images, measured, quantizer, kept, watcher, criterion or Criterion(), threads)
        for images in image_sets
    ]


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
    **options: Any,
) -> dict[str, Any]:
    """Find the smallest word lengths under the criterion.

    ``joint`` is one word length everywhere. ``separate`` (Kang 2018) finds the smallest convolution word
    length with batch normalization at ``bn_start`` bits, then the smallest batch normalization word length
    that still holds with it; so do the other policies of :data:`radixpoint.searching.policies.POLICIES`.
    ``greedy`` and ``per-layer`` first find the word lengths of the layers
    (:mod:`radixpoint.searching.allocate`). No policy's answer is worse than a design that another one has
    seen hold and that it could have given itself.

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
        ranges: what was measured of the float network, on this machine or another (``radixpoint
        calibrate``, or
            ``ranges.npz`` of a run folder); from the same, every machine gets the same result. Default: what
            the run folder holds, or it is measured.
        replaces: whether the result of another search in the folder may be replaced.
        at_chance: go on with a float network that is no better than guessing.
        options: further fields of :class:`radixpoint.quantization.design.Design`.

    Returns:
        What is written to ``result.json`` (see ``docs/result.md``).

    Raises:
        DataError, DesignError, RunError: what was given cannot be used.
    """
    criterion, watcher = criterion or Criterion(), watcher or Watcher()
    lengths = sorted(set(word_lengths))
    if not lengths or not policies or set(policies) - {*POLICIES, *LAYERED}:
        raise DesignError(
            f"policies {list(policies)} with word lengths {lengths}: expected some of "
            f"{', '.join((*POLICIES, *LAYERED))}, and at least one word length"
        )
    if len(lengths) < 2 and set(policies) & set(LAYERED):
        raise DesignError(f"word lengths {lengths}: expected at least two for {' and '.join(LAYERED)}")
    if objective not in get_args(Objective):
        raise DesignError(f"objective {objective!r}: expected one of {', '.join(get_args(Objective))}")
    # what is impossible is refused before any work
    space = Space(graph, tuple(lengths), bn_start, options, objective, constraints or Constraints())
    strategies = [strategy(name, space) for name in dict.fromkeys(policies)]
    for one in (*strategies, *([strategy("separate", space)] if grid else [])):
        one.check()
    if options.get("equalize"):
        pairs(graph)
    shape, outputs = graph.shapes[graph.input], graph.shapes[graph.output][0]
    calibration.check_shape(shape)
    judged_sets = [images, *([] if held_out is None else [held_out])]
    for image_set in judged_sets:
        image_set.check(shape, outputs)
    if outputs <= BEST[criterion.metric]:
        raise DesignError(
            f"metric {criterion.metric} of a network with {outputs} outputs: every answer would be right"
        )
    if ranges is not None:
        ranges.check(graph, calibration)
    overlap = _overlap(images, calibration, held_out, watcher)
    if any(layer.op == "conv" for layer in graph.layers) and not any(
        layer.op == "batch_norm" for layer in graph.layers
    ):
        watcher.warned(
            f"{graph.source}: no batch normalization: if it was trained with it, the exporter folded it "
            f"into the "
            "convolutions, and there is nothing to separate (docs/importing.md says how to keep it)"
        )
    settings = {
        "criterion": msgspec.to_builtins(criterion),
        "options": msgspec.to_builtins(options),
        "objective": objective,
        "constraints": msgspec.to_builtins(space.constraints),
        "word_lengths": lengths,
        "bn_start": bn_start,
        "network": graph.digest,
        "images": _about(images),
        "calibration": _about(calibration),
        "held_out": None if held_out is None else _about(held_out),
        "preprocessing": msgspec.to_builtins(images.preprocessing),
    }
    settings = msgspec.json.decode(msgspec.json.encode(settings))
    if cache is not None:
        Cache(Path(cache), watcher.warned)  # one that cannot be used is refused before anything is made
    run = _run_folder(Path(folder))
    _check_earlier(run, settings | {"policies": [one.name for one in strategies], "grid": grid}, replaces)
    for one in strategies:
        _check_place(run / one.name)
    judge, *reporters = open_judges(
        graph, judged_sets, calibration, run, cache, watcher, criterion, threads, ranges
    )
    _check_chance(judge, at_chance)
    most = sum(one.evaluations() for one in strategies) + (len(lengths) ** 2 if grid else 0)
    judge.images_left = len(images) * most

    share = None if criterion.error is None else criterion.error / len(strategies)
    answers = {one.name: one.run(judge, share) for one in strategies}
    answers = {one.name: _best_admitted(one, answers[one.name], judge) for one in strategies}
    found: dict[str, Any] = {name: dict(answer.details) for name, answer in answers.items()}
    costs: dict[str, int | None] = {}
    for name, answer in answers.items():
        if answer.design is None:
            for file in ANSWER:  # of an earlier search with other options
                (run / name / file).unlink(missing_ok=True)
        else:
            costs[name] = judge.save(answer.design, run / name)
    for name, cost in costs.items():
        base = costs.get("joint")
        found[name]["multiplier_cost"] = cost
        found[name]["relative_cost"] = None if cost is None or base is None else cost / base
    for name, answer in answers.items():
        found[name]["held_out"] = None
        if reporters and answer.design is not None:
            reported, _ = reporters[0].judge(f"{name}, held out", answer.design, whole=True)
            found[name]["held_out"] = msgspec.to_builtins(reported)

    result: dict[str, Any] = {
        "radixpoint_result": RESULT_VERSION,
        "version": version("radixpoint"),
        **settings,
        "ranges": judge.ranges.content,
        "overlap": overlap,
        "float": {"top1": judge.float_evaluation.top1, "top5": judge.float_evaluation.top5},
        "policies": found,
    }
    if grid:
        result["grid"] = _grid(judge, space)
    document = msgspec.json.format(msgspec.json.encode(result)) + b"\n"
    write_whole(run / RESULT, document)
    return dict(msgspec.json.decode(document))


def _grid(judge: Judge, space: Space) -> list[dict[str, Any]]:
    """Every pair of word lengths, on every image."""
    cells = []
    for conv in space.lengths:
        for bn in space.lengths:
            design = Design.separate(conv, bn, **space.options)
            evaluation, verdict = judge.judge(f"grid {conv} x {bn} bits", design, whole=True)
            judge.images_left -= len(judge.images)
            cells.append({"conv": conv, "bn": bn, "verdict": verdict, **msgspec.to_builtins(evaluation)})
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


def _about(images: ImageSet) -> dict[str, Any]:
    return {
        "digest": images.digest,
        "count": len(images),
        "unreadable": [list(pair) for pair in images.unreadable],
    }
