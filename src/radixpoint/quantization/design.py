"""A design: which word lengths, scopes and conversions a fixed-point representation has. JSON in and out.

The file format is described in ``docs/design-file.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import msgspec
from msgspec.structs import force_setattr

from radixpoint.arithmetic.formats import MAX_ACCUMULATOR, MAX_STORED, Overflow, Rounding
from radixpoint.errors import DesignError
from radixpoint.files import read_regular
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph
from radixpoint.ir.ops import LAYERS
from radixpoint.tables import Chart, Row, Tabular

_MAX_JSON = 1 << 26
"""Bytes of a design file."""
CLASSES = ("conv", "bn", "fc", "add", "pool", "input", "table", "mul", "lrn")
"""Layer classes. ``fc`` and ``input`` default to ``conv``'s widths, all others to ``bn``'s."""

_FALLBACK = {"fc": "conv", "input": "conv"} | dict.fromkeys(("add", "pool", "table", "mul", "lrn"), "bn")

Kind = Literal["weights", "activations", "parameters"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Scope = Literal["network", "class", "tensor", "channel"]
SCOPES: frozenset[Scope] = frozenset(get_args(Scope))
Rule = Literal["max", "percentile", "mse", "sqnr", "loss"]
"""Rules that come with the package."""
RULE_SCOPES: dict[str, frozenset[Scope]] = {
    **dict.fromkeys(get_args(Rule), SCOPES),
    "sqnr": frozenset({"tensor", "channel"}),
}
"""Rules that designs may name, and who may share a binary point under each."""
BatchNorm = Literal["affine", "staged", "folded"]
Technique = Literal["offsets", "columns", "units", "blocks"]
CODE_KINDS: set[str] = {"float", "log2", "log_sqrt2", "codebook"}
"""Codes that designs may name; ``radixpoint.quantization.codes.add_code`` adds one."""
AveragePool = Literal["division", "reciprocal"]


def check_names(holder: object, **known: object) -> None:
    """See that fields hold one of the names that they may: files are checked so, and Python has to be too.

    Raises:
        DesignError: one does not.
    """
    for field, names in known.items():
        value = getattr(holder, field)
        if value not in get_args(names):
            raise DesignError(f"{field} {value!r}: expected one of {', '.join(get_args(names))}")


class Widths(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Word lengths of a layer class or of one layer, in bits; None takes the class's.

    Attributes:
        weights: multiplicands of ``conv`` and ``fc``.
        activations: for ``conv`` and ``fc`` the operand; for the others the result.
        parameters: per-channel parameters: batch normalization, biases, reciprocals.
    """

    weights: int | None = None
    activations: int | None = None
    parameters: int | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not 2 <= value <= MAX_STORED:
                raise DesignError(f"{name} of {value} bits: expected 2..{MAX_STORED}")

    @classmethod
    def all(cls, word_length: int) -> Widths:
        return cls(word_length, word_length, word_length)

    def __str__(self) -> str:
        own = (self.weights, self.activations, self.parameters)
        return (
            str(own[0])
            if len(set(own)) == 1
            else "/".join("-" if bits is None else str(bits) for bits in own)
        )


class BinaryPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How binary points are chosen.

    Attributes:
        scope: who shares one: the whole ``network``; a layer ``class`` and kind; a ``tensor``; a ``channel``
            (weights and per-channel parameters by output channel, and convolutions' results).
        rule: ``max``: the largest value seen does not overflow. ``percentile``: that share of values does
            not. ``mse``: least squared error, relative to each tensor's power where a scope holds several.
            ``sqnr``: least error of a layer's output, over the binary points of its weights and of what
            they multiply together; for scopes ``tensor`` and ``channel``.
            ``loss``: class probabilities nearest to those of float on calibration images. Not given, it is
            ``loss`` where binary points are shared (scopes network and class), else ``max``.
        percentile: for that rule, in percent.

    Raises:
        DesignError: an unknown scope or rule, or two that do not go together.
    """

    scope: Scope = "tensor"
    # None stands for "not given" and is replaced below; it is no value of the type, so no file can say it
    rule: str = None  # type: ignore[assignment]  # see above
    percentile: float = 99.99

    def __post_init__(self) -> None:
        check_names(self, scope=Scope)
        if self.rule is None:
            force_setattr(self, "rule", "loss" if self.scope in ("network", "class") else "max")
        if self.rule not in RULE_SCOPES:
            raise DesignError(f"rule {self.rule!r}: expected one of {', '.join(RULE_SCOPES)}")
        if not 50 < self.percentile <= 100:
            raise DesignError(f"percentile {self.percentile}: expected above 50, at most 100")
        if self.scope not in RULE_SCOPES[self.rule]:
            known = " or ".join(scope for scope in get_args(Scope) if scope in RULE_SCOPES[self.rule])
            raise DesignError(f"rule {self.rule} with scope {self.scope}: expected scope {known}")


class Code(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How values are coded where they are not fixed-point; see ``radixpoint.quantization.codes``.

    Attributes:
        kind: ``float``: short floating point. ``log2``, ``log_sqrt2``: sign and logarithm to that base.
            ``codebook``: shared values by k-means, for weights.
        exponent_bits: of ``float``.
    """

    kind: str
    exponent_bits: int = 3

    def __post_init__(self) -> None:
        if self.kind not in CODE_KINDS:
            raise DesignError(f"kind {self.kind!r}: expected one of {', '.join(sorted(CODE_KINDS))}")
        if not 1 <= self.exponent_bits <= 4:
            raise DesignError(f"{self.exponent_bits} exponent bits: expected 1..4")


class Codes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What of ``conv`` and ``fc`` is coded: weights, activations that they multiply; None is fixed-point.

    The class's word lengths are those of the code words.
    """

    weights: Code | None = None
    activations: Code | None = None

    def __post_init__(self) -> None:
        if self.activations is not None and self.activations.kind == "codebook":
            raise DesignError("a codebook for activations: expected one for weights only")


class Accumulator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A narrower accumulator than the proven one, for ``conv`` and ``fc``.

    Wrapping is exact in any order of addition. Saturating at each addition depends on the order, which
    hardware is free to choose, so it is refused.
    """

    word_length: int
    overflow: Overflow = Overflow.WRAP

    def __post_init__(self) -> None:
        if not 2 <= self.word_length <= MAX_ACCUMULATOR - 32:
            raise DesignError(f"accumulator of {self.word_length} bits: expected 2..{MAX_ACCUMULATOR - 32}")
        if self.overflow is not Overflow.WRAP:
            raise DesignError(
                f"accumulator overflow {self.overflow}: only WRAP, since saturation at each addition "
                "depends on the order of the additions"
            )


class Design(
    Tabular,
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"version": "radixpoint_design"},
):
    """A fixed-point representation of a network.

    Attributes:
        version: of the file format.
        classes: word lengths by layer class; ``conv`` and ``bn`` are required.
        layers: word lengths of single layers by name, overriding their class.
        batch_norm: ``affine`` (one multiplier), ``staged`` (Caffe's two stages) or ``folded``.
        average_pool: ``division`` (exactly rounded) or ``reciprocal`` (fixed-point multiplication). Not
            given, it is ``division``, but ``reciprocal`` for rounding STOCHASTIC: an exactly rounded division
            has nothing to draw for.
        binary_point: how binary points are chosen.
        binary_points: the same for single layers by name, overriding it; scopes ``tensor`` and ``channel``
            only, since a shared binary point is not one layer's.
        rounding, overflow: of casts between activations.
        parameter_rounding: of weights and parameters.
        accumulator: a narrower accumulator, or None for the proven width.
        seed: of STOCHASTIC rounding.
        unsigned: operands of ``conv`` and ``fc`` that a ReLU keeps from being negative have no sign bit.
        codes: weights and activations that are not fixed-point.
        equalize: powers of two are first moved between channels (``radixpoint.quantization.equalize``).
        refine: how stored integers are improved on calibration images
            (``radixpoint.quantization.refine``, ``blocks``); none rounds each parameter by itself.
        target: name of the hardware target that it was made for; not there if for none.
    """

    version: Literal[1] = 1
    classes: dict[str, Widths]
    layers: dict[str, Widths] = {}
    batch_norm: BatchNorm = "affine"
    # None stands for "not given" and is replaced below; it is no value of the type, so no file can say it
    average_pool: AveragePool = None  # type: ignore[assignment]  # see above
    binary_point: BinaryPoint = BinaryPoint()
    binary_points: dict[str, BinaryPoint] = {}
    rounding: Rounding = Rounding.RND
    overflow: Overflow = Overflow.SAT
    parameter_rounding: Rounding = Rounding.RND
    accumulator: Accumulator | None = None
    seed: int = 0
    unsigned: bool = False
    codes: Codes = Codes()
    equalize: bool = False
    refine: list[Technique] = []
    target: str | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.average_pool is None:
            draws = self.rounding is Rounding.STOCHASTIC
            force_setattr(self, "average_pool", "reciprocal" if draws else "division")
        check_names(self, batch_norm=BatchNorm, average_pool=AveragePool)
        if strange := set(self.refine) - set(get_args(Technique)):
            raise DesignError(f"refine {min(strange)!r}: expected some of {', '.join(get_args(Technique))}")
        unknown = sorted(set(self.classes) - set(CLASSES))
        if unknown:
            raise DesignError(f"unknown layer class {unknown[0]!r}: expected {', '.join(CLASSES)}")
        if missing := {"conv", "bn"} - set(self.classes):
            raise DesignError(f"classes: no widths for {' and '.join(sorted(missing))}")
        for name, point in self.binary_points.items():
            shared = next((p for p in (self.binary_point, point) if p.scope in ("network", "class")), None)
            if shared is not None:
                raise DesignError(
                    f"binary_points of {name!r} with scope {shared.scope}: expected tensor or channel for it "
                    "and for binary_point, since a shared binary point is not one layer's"
                )
        if self.codes.weights is not None and {"columns", "units"} & set(self.refine):
            raise DesignError("refine: columns and units search fixed-point weights, and these are coded")
        if "blocks" in self.refine:
            for name, there in {
                "codes": self.codes != Codes(),
                "a narrower accumulator": self.accumulator is not None,
                "stochastic rounding": self.rounding is Rounding.STOCHASTIC,
            }.items():
                if there:
                    raise DesignError(
                        f"refine: blocks are trained on a plain grid, and the design has {name}"
                    )
        if not 0 <= self.seed < 1 << 64:
            raise DesignError(f"seed {self.seed}: expected 0..2**64-1")

    def summary(self) -> str:
        """It in a line."""
        point = self.binary_point
        words = ", ".join(f"{name} {widths}" for name, widths in self.classes.items())
        return f"Design: {words} bits; a binary point a {point.scope} by rule {point.rule}; {self.batch_norm}"

    def rows(self) -> list[Row]:
        """Word lengths of each class, and of each layer that has its own."""
        kinds = get_args(Kind)
        named = [*(("class", *item) for item in self.classes.items())]
        named += [("layer", *item) for item in self.layers.items()]
        return [
            {"of": what, "name": name, **{kind: getattr(own, kind) for kind in kinds}}
            for what, name, own in named
        ]

    def chart(self) -> Chart:
        """Word lengths by class and layer."""
        kinds = get_args(Kind)
        named = {**self.classes, **self.layers}
        series = {kind: [getattr(own, kind) for own in named.values()] for kind in kinds}
        return Chart(list(named), series, ("class or layer", "bits"))

    @classmethod
    def joint(cls, word_length: int, **options: object) -> Design:
        """One word length everywhere. ``options`` are further fields.

        Raises:
            DesignError: an impossible word length or option.
        """
        return cls.separate(word_length, word_length, **options)

    @classmethod
    def separate(cls, conv: int, bn: int, **options: object) -> Design:
        """Convolutions (and fully connected layers) at ``conv`` bits, everything else at ``bn`` (Kang 2018).

        Raises:
            DesignError: an impossible word length or option.
        """
        try:
            classes = {"conv": Widths.all(conv), "bn": Widths.all(bn)}
            plain = msgspec.to_builtins({**options, "classes": classes})
            return msgspec.convert(plain, cls)
        except msgspec.MsgspecError as error:
            raise DesignError(str(error)) from None

    @classmethod
    def load(cls, path: str | Path) -> Design:
        """Read a design file.

        Raises:
            DesignError: unreadable, or not a design.
        """
        try:
            return msgspec.json.decode(read_regular(path, _MAX_JSON), type=cls)
        except OSError as error:
            raise DesignError(f"{path}: {error.strerror}") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, DesignError) as error:
            raise DesignError(f"{path}: not a design: {error}") from None

    @classmethod
    def recorded(cls, network: IntGraph) -> Design | None:
        """The design that a quantized network says it was made by, or None if it says nothing.

        Raises:
            DesignError: what it says is no design.
        """
        text = network.metadata.get("design")
        if text is None:
            return None
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, RecursionError, DesignError) as error:
            raise DesignError(f"the network's record of its design: {error}") from None

    def to_json(self) -> bytes:
        """The design file, indented, ending in a newline; the same design gives the same bytes."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"

    def width(self, layer: str, layer_class: str, kind: Kind) -> int:
        """Word length of ``kind`` in ``layer``, which is of ``layer_class``.

        Raises:
            DesignError: neither the layer nor its class says.
        """
        candidates = [self.layers.get(layer), self.classes.get(layer_class)]
        fallback = _FALLBACK.get(layer_class, layer_class)
        if layer_class == "input" and self.codes.activations is not None:
            fallback = "bn"  # an image is fixed-point: it is coded where it is multiplied
        candidates.append(self.classes.get(fallback))
        for widths in candidates:
            if widths is not None and getattr(widths, kind) is not None:
                return int(getattr(widths, kind))
        raise DesignError(f"layer {layer!r} of class {layer_class!r}: no word length for its {kind}")

    def check(self, graph: Graph) -> None:
        """Check that every layer it names is in the network and has a word length.

        Raises:
            DesignError: a layer that the network does not have, or that has no word length to set.
            ModelError: blocks are to be refined, and PyTorch is not installed.
        """
        if "blocks" in self.refine:
            from radixpoint.importers.torch import require_torch

            require_torch("refining blocks")
        sized = {layer.name for layer in graph.layers if LAYERS[layer.op].layer_class} | {graph.input}
        for name in (*self.layers, *self.binary_points):
            if name not in sized:
                raise DesignError(
                    f"unknown layer {name!r}: the network has no layer of that name that has a word length"
                )
