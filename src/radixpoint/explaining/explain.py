"""Which layers cost the accuracy, and what in them: each alone quantized, and each alone freed.

Every figure is measured on a network of its own: the same network with other formats in some places, run in
integers. Nothing is estimated from the figures of another design.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from radixpoint.arithmetic.formats import MAX_FRACTION, MAX_STORED, TensorFormat
from radixpoint.data import ImageSet
from radixpoint.errors import DesignError
from radixpoint.explaining.probe import Lost, Probe, Progress, quiet
from radixpoint.files import Document
from radixpoint.measure.metrics import Metric
from radixpoint.quantization.design import RULE_SCOPES, BinaryPoint, Design
from radixpoint.quantization.quantize import Quantizer
from radixpoint.quantization.sites import Key
from radixpoint.tables import Chart, Row, Tabular

FILE = "explanation.json"
IMAGES = 128
"""Looked at unless others are asked for."""
DEEPER = 5
"""Layers whose places are looked at one by one."""
MORE_BITS = 4
"""Added to a format to take away its saturation, or its rounding."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layer, or one place of it.

    Attributes:
        layer, op: its name and operator.
        role: of the place; empty for the whole layer.
        format: of the place, or of the layer's places.
        alone: what is lost when it alone is quantized, and all others are freed.
        without: what is still lost when it alone is freed, and all others are quantized.
        share: of the sum of all layers' ``alone``, in percent; of a place: of its layer's places.
        unsaturated, unrounded: as ``without``, but only its saturation, or only its rounding, is taken away.
            None for a whole layer.
        by_channel: as ``without``, with a binary point a channel in this place; None where it has none.
    """

    layer: str
    op: str
    role: str
    format: str
    alone: Lost
    without: Lost
    share: float
    unsaturated: Lost | None = None
    unrounded: Lost | None = None
    by_channel: Lost | None = None


class Explanation(Tabular, Document, frozen=True, forbid_unknown_fields=True):
    """Where a design loses.

    Attributes:
        images: how many were looked at.
        metric: that drops are measured by.
        unit: of the losses: ``bits`` of divergence, or ``relative`` squared error.
        whole: what the design loses, rounded to nearest.
        free: what is lost when every layer is freed.
        layers: the one that loses most alone comes first.
        left_over: what the layers' losses do not add up to, in percent of the whole loss: negative where
            layers make up for each other.
        places: of the first layers, the one that loses most alone comes first within its layer.
        design: as JSON.
    """

    what = "an explanation"

    images: int
    metric: str
    unit: str
    whole: Lost
    free: Lost
    layers: list[Part]
    left_over: float
    places: list[Part]
    design: str

    def summary(self) -> str:
        """It in a line."""
        worst = ", ".join(f"{part.layer} {part.share:.1f} %" for part in self.layers[:3])
        return f"Explanation on {self.images:,} images: drop {self.whole.drop:+.4g}; most is lost in {worst}"

    def rows(self) -> list[Row]:
        """A row for each layer."""
        return [
            {
                "layer": part.layer,
                "operator": part.op,
                "share": part.share,
                "drop_alone_quantized": part.alone.drop,
                "drop_alone_freed": part.without.drop,
            }
            for part in self.layers
        ]

    def chart(self) -> Chart:
        """Shares of the loss, of the layers that lose most."""
        most = self.layers[:20]
        return Chart(
            [part.layer for part in most], {"share": [part.share for part in most]}, ("layer", "share, %")
        )

    @property
    def sensitivities(self) -> dict[str, float]:
        """What each layer loses alone, by name."""
        return {part.layer: part.alone.loss for part in self.layers}


def explain(
    quantizer: Quantizer,
    design: Design,
    images: ImageSet,
    metric: Metric,
    deeper: int = DEEPER,
    progress: Progress = quiet,
) -> Explanation:
    """Measure what every layer costs, and within the worst ones every place.

    Args:
        quantizer: of the network.
        design: to be explained; ``refine`` and a narrow accumulator are left out.
        images: to measure on, all of them.
        metric: for drops.
        deeper: in how many layers places are looked at one by one.
        progress: told how it goes.

    Raises:
        DataError: the images do not fit the network, or the metric.
        DesignError: the design does not fit the network, or codes its operands.
    """
    metric.check(quantizer.graph, images)
    return _Explainer(Probe(quantizer, design, images, metric), design, deeper, progress).run()


class _Explainer:
    """Measures one part after the other."""

    def __init__(self, probe: Probe, design: Design, deeper: int, progress: Progress) -> None:
        self.probe, self.design, self.progress = probe, design, progress
        self.ops = {layer.name: layer.op for layer in probe.quantizer.graph.layers}
        self.keys: dict[str, list[Key]] = {}
        for key in probe.places:
            self.keys.setdefault(key[0], []).append(key)
        self.deeper = min(deeper, len(self.keys))
        self.done, self.total = 0, 2 + 2 * len(self.keys)

    def run(self) -> Explanation:
        probe = self.probe
        whole, free = self._lost("the whole", []), self._lost("all freed", list(probe.places))
        layers = _ranked(self._parts([(name, "", keys) for name, keys in self.keys.items()]), free)
        worst = [part.layer for part in layers[: self.deeper]]
        self.total += sum(5 * len(self.keys[name]) for name in worst)
        places = []
        for name in worst:
            parts = self._parts([(*key, [key]) for key in self.keys[name]])
            places += _ranked([self._deeper(part) for part in parts], free)
        added = sum(part.alone.loss - free.loss for part in layers) + free.loss
        left_over = 100 * (whole.loss - added) / whole.loss if whole.loss else 0.0
        unit = "bits" if probe.quantizer.graph.names_classes else "relative"
        return Explanation(
            *(len(probe.images), probe.metric.name, unit, whole, free, layers, left_over, places),
            self.design.to_json().decode(),
        )

    def _lost(self, what: str, keys: list[Key]) -> Lost:
        """With these places freed."""
        self.progress(what, self.done, self.total)
        self.done += 1
        probe = self.probe
        formats = {key: probe.free[key] if key in keys else form for key, form in probe.formats.items()}
        return probe.lost(formats)

    def _parts(self, asked: list[tuple[str, str, list[Key]]]) -> list[Part]:
        """Layers or places: first each alone, then all but each, so that most integers are known."""
        places = list(self.probe.places)
        alone = [
            self._lost(f"{layer} {role} alone", [key for key in places if key not in keys])
            for layer, role, keys in asked
        ]
        without = [self._lost(f"all but {layer} {role}", keys) for layer, role, keys in asked]
        return [
            Part(
                layer, self.ops.get(layer, "input"), role, self._formats(role, keys), before, after, share=0.0
            )
            for (layer, role, keys), before, after in zip(asked, alone, without, strict=True)
        ]

    def _formats(self, role: str, keys: list[Key]) -> str:
        shown = [str(self.probe.formats[key]) for key in keys]
        return (
            shown[0] if role else ", ".join(f"{key[1]} {form}" for key, form in zip(keys, shown, strict=True))
        )

    def _deeper(self, part: Part) -> Part:
        """What of a place is gone without its saturation, its rounding, and with a binary point a channel."""
        key = (part.layer, part.role)
        form = self.probe.formats[key]
        more = min(MORE_BITS, MAX_STORED - form.word_length)
        wider = TensorFormat(form.signed, form.word_length + more, form.fraction_lengths)
        fractions = tuple(min(f + more, MAX_FRACTION) for f in form.fraction_lengths)
        finer = TensorFormat(form.signed, form.word_length + more, fractions)
        channels = self._by_channel(key)
        what = " ".join(key)
        return replace(
            part,
            unsaturated=self._changed(f"{what} unsaturated", key, wider),
            unrounded=self._changed(f"{what} unrounded", key, finer),
            by_channel=None if channels is None else self._changed(f"{what} by channel", key, channels),
        )

    def _changed(self, what: str, key: Key, form: TensorFormat) -> Lost | None:
        """With another format in one place; None where sums would not fit."""
        self.progress(what, self.done, self.total)
        self.done += 1
        try:
            return self.probe.lost({**self.probe.formats, key: form})
        except DesignError:
            return None

    def _by_channel(self, key: Key) -> TensorFormat | None:
        """The format that the place would have with a binary point a channel."""
        point, (site, form) = self.probe.design.binary_point, self.probe.places[key]
        if point.scope != "tensor" or "channel" not in RULE_SCOPES[point.rule] or not site.by_channel:
            return None
        scoped = BinaryPoint("channel", point.rule, point.percentile)
        found = self.probe.quantizer.formats(replace(self.probe.design, binary_point=scoped))[key]
        return found if found != form else None


def _ranked(parts: list[Part], free: Lost) -> list[Part]:
    """The one that loses most alone first, each with its share."""
    added = sum(max(part.alone.loss - free.loss, 0.0) for part in parts)
    shared = (
        replace(part, share=100 * max(part.alone.loss - free.loss, 0.0) / added if added else 0.0)
        for part in parts
    )
    return sorted(shared, key=lambda part: -part.alone.loss)
