"""What to do next: changes to a design, each tried, with what it brings and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from radixpoint.accelerator.cost import cost
from radixpoint.data import ImageSet
from radixpoint.engines import make_engine
from radixpoint.errors import DesignError
from radixpoint.explaining.explain import Explanation
from radixpoint.explaining.probe import Lost, Progress, quiet
from radixpoint.files import Document
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph
from radixpoint.measure.calibrate import float_outcomes
from radixpoint.measure.evaluate import network_outcomes, summarize
from radixpoint.measure.metrics import Metric
from radixpoint.measure.outcomes import Outcomes
from radixpoint.quantization.design import RULE_SCOPES, BinaryPoint, Design, Kind, Widths
from radixpoint.quantization.quantize import Quantizer
from radixpoint.searching.criterion import Criterion
from radixpoint.tables import Chart, Row, Tabular, ends

FILE = "advice.json"
WORST = 3
"""Layers that changes of their own are tried for."""
TOGETHER = 5
"""Changes that are tried together, at most, one after the other."""
AGAIN = 5
"""Changes that are judged on all images, at most."""
Edit = Callable[[Design], Design]


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A design that was tried.

    Attributes:
        name: what was changed.
        drop, drop_interval: of the metric against float, with a paired 95 % interval.
        gain, gain_interval: how much better it is than the design as it was, on the same images.
        agreement: share of images with the float network's best class, in percent, or None.
        multiplier_cost: of all multipliers, relative to the design as it was.
        memory: of weights and parameters, likewise.
        design: it, as JSON.
    """

    name: str
    drop: float
    drop_interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    agreement: float | None
    multiplier_cost: float
    memory: float
    design: str

    def holds(self, limit: float) -> bool:
        """Whether the drop on these images is within a limit."""
        return self.drop <= limit


class Confirmed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change judged once more, on all images: those that chose it flatter it.

    Attributes:
        name: of the change.
        images: how many.
        drop, drop_interval: of the metric against float, with a paired 95 % interval.
    """

    name: str
    images: int
    drop: float
    drop_interval: tuple[float, float]


class Advice(Tabular, Document, frozen=True, forbid_unknown_fields=True):
    """What was tried.

    Attributes:
        images: how many.
        metric: its name.
        limit: on its drop.
        now: the design as it was.
        changes: those tried, the one that brings most first.
        confirmed: the cheapest within the limit, judged on all images, one after the other until one is
            within it there, too; none where all images were looked at anyway.
        best: name of the one to take: the cheapest within the limit on all images that judged it, or if none
            is, the one with the least drop; None if nothing is better than the design as it was.
    """

    what = "advice"

    images: int
    metric: str
    limit: float
    now: Change
    changes: list[Change]
    confirmed: list[Confirmed]
    best: str | None

    def summary(self) -> str:
        """It in a line."""
        found = "nothing better" if self.best is None else f"best: {self.best}"
        return f"Advice: {len(self.changes)} changes tried on {self.images:,} images; {found}"

    def rows(self) -> list[Row]:
        """A row for each design, the one as it was first."""
        return [
            {
                "change": change.name,
                "drop": change.drop,
                **ends("drop", change.drop_interval),
                "gain": change.gain,
                "multiplier_cost": change.multiplier_cost,
                "memory": change.memory,
            }
            for change in (self.now, *self.changes)
        ]

    def chart(self) -> Chart:
        """What each change brings."""
        gains = {"better by": [change.gain for change in self.changes]}
        return Chart([change.name for change in self.changes], gains, ("change", f"{self.metric}, better by"))

    def change(self, name: str) -> Change:
        """The change of that name."""
        return next(tried for tried in self.changes if tried.name == name)


@dataclass(frozen=True)
class _Candidate:
    """Something to try.

    Attributes:
        name: in words.
        edit: what it does to a design.
        about: what it changes: of two that are about the same, one is enough.
    """

    name: str
    edit: Edit
    about: str


_KINDS: dict[str, Kind] = {"operand": "activations", "weight": "weights"}
"""Word lengths that a place of a convolution or fully connected layer takes."""


def _longer(layer: str, kind: Kind, layer_class: str, more: int) -> Edit:
    def edit(design: Design) -> Design:
        now = design.width(layer, layer_class, kind)
        own = replace(design.layers.get(layer, Widths()), **{kind: now + more})
        return replace(design, layers={**design.layers, layer: own})

    return edit


def _layer_classes(graph: Graph) -> dict[str, str]:
    """Class of every layer that has word lengths, and of the input."""
    found = {layer.name: layer.row.layer_class or "" for layer in graph.layers}
    return found | {graph.input: "input"}


def _classes_longer(graph: Graph, names: Sequence[str], more: int) -> Edit:
    """Some classes longer, and every layer among them that has a word length of its own."""
    classes = _layer_classes(graph)

    def longer(widths: Widths) -> Widths:
        given = {name: getattr(widths, name) for name in widths.__struct_fields__}
        return Widths(**{name: value if value is None else value + more for name, value in given.items()})

    def edit(design: Design) -> Design:
        wider = {n: longer(w) if n in names else w for n, w in design.classes.items()}
        own = {n: longer(w) if classes[n] in names else w for n, w in design.layers.items()}
        return replace(design, classes=wider, layers=own)

    return edit


def _fields(**fields: Any) -> Edit:
    return lambda design: replace(design, **fields)


def _own_point(layer: str, point: BinaryPoint) -> Edit:
    return lambda design: replace(design, binary_points={**design.binary_points, layer: point})


def _of_layers(graph: Graph, design: Design, explanation: Explanation) -> Iterator[_Candidate]:
    """For the worst layers: bits for their worst place, another rule, a binary point a channel."""
    classes = _layer_classes(graph)
    point, worst = design.binary_point, list(dict.fromkeys(part.layer for part in explanation.places))[:WORST]
    for name in worst:
        places = [part for part in explanation.places if part.layer == name]
        first, layer_class = places[0], classes[name]
        kind = _KINDS.get(first.role, "activations" if first.role == "result" else "parameters")
        if layer_class in ("conv", "fc") and first.role not in _KINDS:
            kind = next((_KINDS[p.role] for p in places if p.role in _KINDS), "activations")
        for more in (1, 2):
            bits = "bit" if more == 1 else "bits"
            yield _Candidate(
                f"{name}: {kind} {more} {bits} longer", _longer(name, kind, layer_class, more), name
            )
        if point.scope in ("network", "class"):
            continue
        for rule in ("percentile", "mse", "sqnr", "max"):
            if rule != point.rule and point.scope in RULE_SCOPES[rule]:
                yield _Candidate(
                    f"{name}: rule {rule}", _own_point(name, BinaryPoint(point.scope, rule)), name
                )
        if any(_helps(part.by_channel, explanation) for part in places):
            by_channel = BinaryPoint("channel", point.rule, point.percentile)
            yield _Candidate(f"{name}: scope channel", _own_point(name, by_channel), name)


def _helps(lost: Lost | None, explanation: Explanation) -> bool:
    return lost is not None and lost.loss < explanation.whole.loss


def _of_all(graph: Graph, design: Design) -> Iterator[_Candidate]:
    """For the whole network."""
    products, others = ("conv", "fc", "input"), ("bn", "add", "pool", "table", "mul", "lrn")
    yield _Candidate("convolutions: 1 bit longer", _classes_longer(graph, products, 1), "conv")
    yield _Candidate("batch normalization: 1 bit longer", _classes_longer(graph, others, 1), "bn")
    yield _Candidate("batch normalization: 2 bits longer", _classes_longer(graph, others, 2), "bn")
    yield _Candidate("batch normalization: 1 bit shorter", _classes_longer(graph, others, -1), "bn")
    point = design.binary_point
    for rule in ("max", "percentile", "mse", "sqnr", "loss"):
        if rule != point.rule and point.scope in RULE_SCOPES[rule]:
            yield _Candidate(f"rule {rule}", _fields(binary_point=BinaryPoint(point.scope, rule)), "rule")
    if point.scope != "channel":
        rule = "max" if point.scope in ("network", "class") else point.rule
        yield _Candidate(
            "scope channel", _fields(binary_point=BinaryPoint("channel", rule, point.percentile)), "rule"
        )
    if not design.unsigned:
        yield _Candidate("unsigned operands", _fields(unsigned=True), "unsigned")
    if not design.equalize and not design.layers:
        yield _Candidate("equalized", _fields(equalize=True), "equalize")
    for techniques in (["offsets"], ["offsets", "columns"]):
        if not set(techniques) <= set(design.refine):
            merged = list(dict.fromkeys([*design.refine, *techniques]))
            yield _Candidate(f"refined by {' and '.join(merged)}", _fields(refine=merged), "refine")


class _Trials:
    """Tries designs on the same images."""

    def __init__(self, quantizer: Quantizer, images: ImageSet, metric: Metric, progress: Progress) -> None:
        self.quantizer, self.images, self.metric, self.progress = quantizer, images, metric, progress
        self.reference = float_outcomes(quantizer.graph, images, metric)
        self.first: tuple[Outcomes, int, int] | None = None
        self.done, self.total = 0, 0

    def outcomes(self, network: IntGraph) -> Outcomes:
        """Image by image."""
        return network_outcomes(network, make_engine(network), self.images, self.metric)

    def attempt(self, name: str, edit: Edit, design: Design) -> Change | None:
        """Measure an edited design; None where it is the same, or this network cannot have it."""
        try:
            changed = edit(design)
            if changed == design or (changed.refine and self.quantizer.calibration is None):
                return None
            return self.tried(name, changed)
        except DesignError:
            return None

    def tried(self, name: str, design: Design) -> Change:
        """Measure a design; the first one is what the others are compared with.

        Raises:
            DesignError: the network cannot have it.
        """
        self.progress(name, self.done, self.total)
        self.done += 1
        network = self.quantizer.quantize(design)
        seen = self.outcomes(network)
        costs = cost(network)
        memory = costs.weight_bits + costs.parameter_bits
        if self.first is None:
            self.first = seen, costs.multiplier_cost, memory
        before, multipliers, bits = self.first
        judged, step = summarize(self.reference, seen, self.metric), self.metric.pair(before, seen)
        low, high = step.interval()
        return Change(
            name,
            judged.drop,
            judged.drop_interval,
            -step.drop,
            (-high, -low),
            judged.agreement,
            costs.multiplier_cost / multipliers if multipliers else 1.0,
            memory / bits if bits else 1.0,
            design.to_json().decode(),
        )


def advise(
    quantizer: Quantizer,
    design: Design,
    explanation: Explanation,
    images: ImageSet,
    metric: Metric,
    criterion: Criterion,
    progress: Progress = quiet,
    first: int | None = None,
) -> Advice:
    """Try changes of a design, one by one, then the best of them together; judge the cheapest once more.

    Args:
        quantizer: of the network; with calibration images, or refining is not tried.
        design: as it is.
        explanation: of it: whose layers changes are tried for.
        images: to judge on.
        metric: to judge by.
        criterion: whose limit a change should hold.
        progress: told how it goes.
        first: how many of the images all changes are judged on; None: all. The one to take is judged on all.

    Raises:
        DataError: the images do not fit the network, or the metric.
        DesignError: the design does not fit the network.
    """
    chosen_on = images if first is None or first >= len(images) else images.first(first)
    trials = _Trials(quantizer, chosen_on, metric, progress)
    candidates = [*_of_layers(quantizer.graph, design, explanation), *_of_all(quantizer.graph, design)]
    limit = criterion.allowed(metric.pair(trials.reference, trials.reference), None)
    now = trials.tried("as it is", design)
    found: list[tuple[_Candidate, Change]] = []
    if now.holds(limit):
        candidates += _shorter(quantizer.graph, explanation)
    trials.total = 1 + len(candidates) + TOGETHER
    for candidate in candidates:
        change = trials.attempt(candidate.name, candidate.edit, design)
        if change is not None:
            found.append((candidate, change))
    changes = [change for _, change in found]
    changes += _together(trials, design, found)
    changes.sort(key=lambda change: (-change.gain, change.multiplier_cost))
    ranked = _ranked(now, changes, limit)
    best = ranked[0].name if ranked else None
    confirmed: list[Confirmed] = []
    if ranked and len(chosen_on) < len(images):
        confirmed = _confirmed(_Trials(quantizer, images, metric, progress), ranked[:AGAIN], limit)
        least = min(confirmed, key=lambda judged: (judged.drop > limit, judged.drop))
        best = None if now.holds(limit) and least.drop > limit else least.name
    return Advice(len(chosen_on), metric.name, limit, now, changes, confirmed, best)


def _shorter(graph: Graph, explanation: Explanation) -> Iterator[_Candidate]:
    """Where there is accuracy to spare: all convolutions shorter, but not the layers that lose most."""
    products = [part.layer for part in explanation.layers if part.op in ("conv", "fc")]
    for fewer in (1, 2) if products else ():
        for count in (1, WORST, 3 * WORST):
            kept = products[:count]
            names = kept[0] if count == 1 else f"the {len(kept)} layers that lose most"
            bits = "bit" if fewer == 1 else "bits"
            name = f"convolutions {fewer} {bits} shorter, but not {names}"
            yield _Candidate(name, _shorter_but(graph, kept, fewer), "conv")


def _shorter_but(graph: Graph, kept: Sequence[str], fewer: int) -> Edit:
    classes = _layer_classes(graph)

    def edit(design: Design) -> Design:
        own = {
            name: replace(
                design.layers.get(name, Widths()),
                weights=design.width(name, classes[name], "weights"),
                activations=design.width(name, classes[name], "activations"),
            )
            for name in kept
        }
        shorter = _classes_longer(graph, ("conv", "fc"), -fewer)(design)
        return replace(shorter, layers={**shorter.layers, **own})

    return edit


def _together(
    trials: _Trials, design: Design, found: Sequence[tuple[_Candidate, Change]]
) -> Iterator[Change]:
    """The best changes one upon the other, each kept if it helps once more.

    Those come first that bring most for what they cost more; what helps by chance alone is left out.
    """

    def worth(pair: tuple[_Candidate, Change]) -> float:
        change = pair[1]
        return change.gain / (0.02 + max(change.multiplier_cost - 1, 0.0))

    helpful = [pair for pair in found if pair[1].gain_interval[0] > 0]
    helpful.sort(key=worth, reverse=True)
    if not helpful:
        return
    taken, left = [helpful[0][0]], TOGETHER
    current, drop = helpful[0][0].edit(design), helpful[0][1].drop
    for candidate, _ in helpful[1:]:
        if not left or candidate.about in [change.about for change in taken]:
            continue
        left -= 1
        name = "; ".join(change.name for change in [*taken, candidate])
        tried = trials.attempt(name, candidate.edit, current)
        if tried is not None and tried.drop < drop:
            current, taken, drop = candidate.edit(current), [*taken, candidate], tried.drop
            yield tried


def _ranked(now: Change, changes: Sequence[Change], limit: float) -> list[Change]:
    """Those to take, the best first: the cheapest within the limit; if none is, that of the least drop."""
    holding = [change for change in changes if change.holds(limit)]
    if now.holds(limit):
        holding = [change for change in holding if change.multiplier_cost < 1]
    if holding or now.holds(limit):
        return sorted(holding, key=lambda change: (change.multiplier_cost, change.drop))
    return sorted((change for change in changes if change.gain > 0), key=lambda change: change.drop)


def _confirmed(trials: _Trials, ranked: Sequence[Change], limit: float) -> list[Confirmed]:
    """Changes on all images, until one is within the limit."""
    found: list[Confirmed] = []
    for change in ranked:
        trials.progress(f"on all images: {change.name}", len(found), len(ranked))
        design = msgspec.json.decode(change.design, type=Design)
        seen = trials.outcomes(trials.quantizer.quantize(design))
        judged = summarize(trials.reference, seen, trials.metric)
        found.append(Confirmed(change.name, len(trials.images), judged.drop, judged.drop_interval))
        if judged.drop <= limit:
            break
    return found
