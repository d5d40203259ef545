"""A target: what a piece of hardware can run, from a TOML file (``docs/targets.md``).

Whatever the file does not mention is free. A design is held against it before any work, and a quantized
network once its accumulators, shifts and ranges are known.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec.structs import force_setattr, replace

from radixpoint.accelerator.cost import activation_bits, products_of
from radixpoint.accelerator.dataflows import Dataflow, Run, run
from radixpoint.accelerator.workloads import loops
from radixpoint.arithmetic.formats import MAX_STORED, Overflow, Rounding
from radixpoint.errors import DesignError
from radixpoint.files import read_regular
from radixpoint.ir.graph import Graph
from radixpoint.ir.memory import footprint
from radixpoint.ir.network import IntGraph, Step
from radixpoint.ir.ops import LAYERS, STEPS
from radixpoint.quantization.design import (
    CODE_KINDS,
    AveragePool,
    BatchNorm,
    Codes,
    Design,
    Scope,
    Widths,
)
from radixpoint.quantization.sites import widths

NAMED = Path(__file__).parent / "targets"
"""Target files inside the package."""
_MOST = 1 << 20
"""Bytes of a target file."""
_PRODUCTS = ("conv", "fc", "input")
"""Layer classes whose activations are multiplied by weights; ``input`` is what the first of them reads."""
_KIB = 8 << 10
_BATCH_NORM = ("/scale", "/gamma")
"""Ends of names of what batch normalization stores."""

Lengths = list[int]
"""Word lengths, ascending."""


def _lengths(name: str, given: list[int] | str | None) -> Lengths | None:
    """``[4, 8]`` or ``"2:8"``, as a list.

    Raises:
        DesignError: something else.
    """
    found: Any = given
    if isinstance(given, str):
        low, colon, high = given.partition(":")
        if not (colon and low.isdecimal() and high.isdecimal() and len(given) < 8 and int(low) <= int(high)):
            raise DesignError(f"{name} = {given!r}: expected a list, or shortest:longest such as '2:8'")
        found = list(range(int(low), int(high) + 1))
    if found is None:
        return None
    for bits in found:
        if not 2 <= bits <= MAX_STORED:
            raise DesignError(f"{name}: {bits} bits: expected 2..{MAX_STORED}")
    return sorted(set(found))


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Word lengths that the datapath has, each a list or a range such as ``"2:8"``; None is any.

    Attributes:
        weights: of what a convolution or fully connected layer multiplies.
        activations: of what it multiplies them by. A multiplier may have two widths: 8 x 6.
        bn: of batch normalization's results and of everything else between the convolutions.
        parameters: of per-channel parameters: factors, offsets, biases, reciprocals.
        accumulator: bits of the widest sum of products; a bias is added behind it.
        wraps: whether a sum that is longer than the accumulator may be kept modulo its width.
    """

    weights: list[int] | str | None = None
    activations: list[int] | str | None = None
    bn: list[int] | str | None = None
    parameters: list[int] | str | None = None
    accumulator: int | None = None
    wraps: bool = False

    def __post_init__(self) -> None:
        for name in ("weights", "activations", "bn", "parameters"):
            force_setattr(self, name, _lengths(f"words.{name}", getattr(self, name)))
        _check_positive("words", accumulator=self.accumulator)
        if self.wraps and self.accumulator is None:
            raise DesignError("words.wraps without words.accumulator: expected the width at which sums wrap")

    def of(self, layer_class: str, kind: str) -> Lengths | None:
        """Of ``kind`` (of the design) in a class of layers."""
        found: Lengths | None = getattr(self, _rule(layer_class, kind).removeprefix("words."))
        return found


class Shift(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How far, in places, values are moved.

    Attributes:
        right, left: by a cast.
        align: left, by an addition whose operands have different binary points.
    """

    right: int | None = None
    left: int | None = None
    align: int | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise DesignError(f"shift.{name} = {value}: expected 0 or more places")


class Arithmetic(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which of the forms that arithmetic takes there are; None is every one.

    Attributes:
        rounding, overflow: of casts.
        batch_norm, average_pool: as in designs.
        scopes: who may share a binary point.
        operands: what multiplies weights: numbers with a sign, without, or both.
        codes: values that are not fixed-point (``docs/design-file.md``); none unless they are named.
        table: entries of the largest table of a function.
    """

    rounding: list[Rounding] | None = None
    overflow: list[Overflow] | None = None
    batch_norm: list[BatchNorm] | None = None
    average_pool: list[AveragePool] | None = None
    scopes: list[Scope] | None = None
    operands: list[Literal["signed", "unsigned"]] | None = None
    codes: list[str] = []
    table: int | None = None

    def __post_init__(self) -> None:
        _check_positive("arithmetic", table=self.table)
        for code in self.codes:
            if code not in CODE_KINDS:
                known = ", ".join(sorted(CODE_KINDS))
                raise DesignError(f"arithmetic.codes: {code!r}: expected some of {known}")


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """KiB, at the word lengths of what is stored.

    Attributes:
        parameters: of all parameters together.
        activations: of the activations that live at the same time.
        ram, flash: of the exported C, in whole bytes: what changes, and all parameters; stack and code apart.
    """

    parameters: float | None = None
    activations: float | None = None
    ram: float | None = None
    flash: float | None = None

    def __post_init__(self) -> None:
        _check_positive("memory", **{name: getattr(self, name) for name in self.__struct_fields__})


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which layers there may be.

    Attributes:
        operators: of the trained network (``docs/importing.md``), by name.
        steps: of the quantized network (``docs/ops.md``), by name.
        kernel: rows and columns of the largest window.
        channels: most channels that a convolution or fully connected layer reads or writes.
        groups: whether convolutions may have groups.
    """

    operators: list[str] | None = None
    steps: list[str] | None = None
    kernel: int | None = None
    channels: int | None = None
    groups: bool = True

    def __post_init__(self) -> None:
        _check_positive("layers", kernel=self.kernel, channels=self.channels)
        for name, known in (("operators", LAYERS), ("steps", STEPS)):
            for op in getattr(self, name) or ():
                if op not in known:
                    raise DesignError(f"layers.{name}: {op!r}: expected some of {', '.join(known)}")


class Clock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How fast it is.

    Attributes:
        multipliers: products of a weight and an activation in one clock, at most.
        megahertz: of the clock.
        milliseconds: that one image may take; all multipliers busy all the time is the least it can take.
    """

    multipliers: int | None = None
    megahertz: float | None = None
    milliseconds: float | None = None

    def __post_init__(self) -> None:
        _check_positive("clock", **{name: getattr(self, name) for name in self.__struct_fields__})
        if self.milliseconds is not None and None in (self.multipliers, self.megahertz):
            raise DesignError("clock.milliseconds: expected clock.multipliers and clock.megahertz beside it")

    def least(self, macs: int) -> float | None:
        """Milliseconds in which so many products can be made; None if the file does not say."""
        if self.multipliers is None or self.megahertz is None:
            return None
        return macs / self.multipliers / self.megahertz / 1e3


def _check_positive(table: str, /, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise DesignError(f"{table}.{name} = {value}: expected a number above 0")


class Problem(msgspec.Struct, frozen=True):
    """Something that a target rules out.

    Attributes:
        rule: the key of the target file, such as ``words.weights``.
        given: what the design or network has.
        expected: what the target has.
        layers: which layers; none where it is about the whole.
    """

    rule: str
    given: str
    expected: str
    layers: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = ", ".join(map(repr, self.layers[:3]))
        if len(self.layers) > 3:
            names += f" and {len(self.layers) - 3} more"
        where = f"layer{'s' if len(self.layers) > 1 else ''} {names}: " if self.layers else ""
        return f"{where}{self.rule}: {self.given}: expected {self.expected}"


class HardwareTarget(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    rename={"version": "radixpoint_target"},
):
    """What a piece of hardware can run.

    Attributes:
        version: of the file format.
        name: as designs that were made for it say.
        about: it in a line.
        sources: where figures come from, by their key.
        words, shift, arithmetic, memory, layers, clock: the tables of the file.
        dataflow: how it moves what it multiplies (``radixpoint.accelerator.dataflows``), if that is known.
    """

    version: Literal[1]
    name: str
    about: str = ""
    sources: dict[str, str] = {}
    words: Words = Words()
    shift: Shift = Shift()
    arithmetic: Arithmetic = Arithmetic()
    memory: Memory = Memory()
    layers: Limits = Limits()
    clock: Clock = Clock()
    dataflow: Dataflow | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise DesignError("name: empty: expected the target's name")
        for rule in self.sources:
            table, _, key = rule.partition(".")
            if key not in getattr(getattr(self, table, None), "__struct_fields__", ()):
                raise DesignError(f"sources: {rule!r}: expected a key of the file, such as 'words.weights'")

    @classmethod
    def load(cls, which: str | Path) -> HardwareTarget:
        """Read a target file, or take one of those in the package by its name.

        Raises:
            DesignError: no such file or name, or not a target.
        """
        path, data = _read(which)
        try:
            return msgspec.toml.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, DesignError) as error:
            raise DesignError(f"{path}: not a target: {error}") from None

    def with_memory(self, ram: float | None, flash: float | None) -> HardwareTarget:
        """The same with other limits, in KiB, on what the exported C takes; None leaves what there is.

        Raises:
            DesignError: no number above 0.
        """
        given = {name: kib for name, kib in (("ram", ram), ("flash", flash)) if kib is not None}
        return replace(self, memory=replace(self.memory, **given))

    @property
    def content(self) -> str:
        """All of it as JSON: two files with the same limits have the same."""
        return msgspec.json.encode(self, order="sorted").decode()

    # ------------------------------------------------------------------------------------ designs

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Further fields of designs: those given, and where they do not choose, the target's first form."""
        own, first = self.arithmetic, dict(given)
        for name in ("rounding", "overflow", "batch_norm", "average_pool"):
            if forms := getattr(own, name):
                first.setdefault(name, forms[0])
        if own.scopes:
            first.setdefault("binary_point", {"scope": own.scopes[0]})
        if own.operands and own.operands[0] == "unsigned":
            first.setdefault("unsigned", True)
        return first

    def bn_start(self, bits: int) -> int:
        """The longest word length up to so many bits that there is between the convolutions.

        Raises:
            DesignError: there is none.
        """
        known = self.words.of("bn", "activations")
        shorter = [length for length in known or [bits] if length <= bits]
        if not shorter:
            problem = Problem("words.bn", f"{bits} bits at the start", _listed(known or []))
            raise DesignError(f"target {self.name}: {problem}")
        return shorter[-1]

    def fitted(self, design: Design) -> Design:
        """The design with each word length replaced by the longest that the hardware has up to it.

        On an 8 x 6 multiplier a design of 8 bits has weights of 8 bits and activations of 6. The design names
        the target.

        Raises:
            DesignError: the hardware has none that short.
        """
        classes = {name: self._fitted(f"class {name!r}", name, own) for name, own in design.classes.items()}
        layers = {}
        for name, own in design.layers.items():
            layers[name] = self._fitted(f"layer {name!r}", "conv" if own.weights is not None else "", own)
        return replace(design, classes=classes, layers=layers, target=self.name)

    def _fitted(self, where: str, layer_class: str, own: Widths) -> Widths:
        """``layer_class``: empty where it is not known; activations then stay as they are."""
        found = {}
        for kind in own.__struct_fields__:
            bits, lengths = getattr(own, kind), self.words.of(layer_class, kind)
            if bits is None or lengths is None or (not layer_class and kind == "activations"):
                continue
            if kind == "weights" and layer_class not in ("conv", "fc"):
                continue
            shorter = [length for length in lengths if length <= bits]
            if not shorter:
                problem = Problem(_rule(layer_class, kind), f"{kind} of {bits} bits", _listed(lengths))
                raise DesignError(f"target {self.name}: {where}: {problem}")
            found[kind] = shorter[-1]
        if layer_class and layer_class not in ("conv", "fc") and "activations" in found:
            found["weights"] = found["activations"]  # there are none; a design of one number stays one
        return replace(own, **found)

    def problems_of_design(self, design: Design, graph: Graph) -> list[Problem]:
        """What rules out the design of this network, as far as it shows without quantizing."""
        found = _Problems()
        self._forms(design, {layer.op for layer in graph.layers}, found)
        self._layers_of(graph, found)
        stored = 0
        for width in widths(graph, design):
            stored += width.bits * width.numbers
            known = self.words.of(width.layer_class, width.kind)
            found.unless_among(
                _rule(width.layer_class, width.kind), known, width.bits, f"{width.bits} bits", width.layer
            )
        found.unless_within("memory.parameters", self.memory.parameters, stored / _KIB, "KiB")
        products = [layer for layer in graph.layers if layer.family == "product"]
        self._timed(
            sum(
                math.prod(graph.shapes[layer.name]) * math.prod(graph.parameter(layer, "weight").shape[1:])
                for layer in products
            ),
            found,
        )
        return found.all

    def _forms(self, design: Design, ops: Collection[str], found: _Problems) -> None:
        own = self.arithmetic
        found.unless_among("arithmetic.rounding", own.rounding, design.rounding)
        found.unless_among("arithmetic.overflow", own.overflow, design.overflow)
        found.unless_among("arithmetic.scopes", own.scopes, design.binary_point.scope)
        for name, point in design.binary_points.items():
            found.unless_among("arithmetic.scopes", own.scopes, point.scope, point.scope, name)
        if "batch_norm" in ops:
            found.unless_among("arithmetic.batch_norm", own.batch_norm, design.batch_norm)
        if "average_pool" in ops:
            found.unless_among("arithmetic.average_pool", own.average_pool, design.average_pool)
        if not design.unsigned:
            found.unless_among("arithmetic.operands", own.operands, "signed")
        if design.accumulator is not None and not self.words.wraps:
            found.add("words.wraps", "a design whose sums wrap", "sums that do not")
        if design.codes != Codes():
            for code in (design.codes.weights, design.codes.activations):
                if code is not None:
                    found.unless_among("arithmetic.codes", own.codes, code.kind)

    def _layers_of(self, graph: Graph, found: _Problems) -> None:
        for layer in graph.layers:
            found.unless_among("layers.operators", self.layers.operators, layer.op, layer.op, layer.name)
            self._windowed(layer.attributes, layer.name, found)
            if layer.family == "product":
                shape = graph.parameter(layer, "weight").shape
                self._sized(shape, layer.attributes.get("groups", 1), layer.name, found)

    def _windowed(self, attributes: Mapping[str, Any], layer: str, found: _Problems) -> None:
        """The window of a pooling."""
        if "kernel" in attributes:
            most = max(attributes["kernel"])
            found.unless_within("layers.kernel", self.layers.kernel, most, "rows or columns", layer)

    def _sized(self, shape: tuple[int, ...], groups: int, layer: str, found: _Problems) -> None:
        limits = self.layers
        found.unless_within(
            "layers.kernel", limits.kernel, max(shape[2:], default=1), "rows or columns", layer
        )
        found.unless_within("layers.channels", limits.channels, max(shape[0], shape[1] * groups), "", layer)
        if groups > 1 and not limits.groups:
            found.add("layers.groups", f"{groups} groups", "convolutions without groups", layer)

    def _timed(self, macs: int, found: _Problems) -> None:
        least = self.clock.least(macs)
        if least is not None:
            what = f"ms for {macs:,} products, with every multiplier busy"
            found.unless_within("clock.milliseconds", self.clock.milliseconds, least, what)

    # ----------------------------------------------------------------------------------- networks

    def problems(self, network: IntGraph) -> list[Problem]:
        """What of a quantized network would not fit; empty if all of it does."""
        found = _Problems()
        for step in network.steps:
            layer = network.tensors[step.name].layer
            found.unless_among("layers.steps", self.layers.steps, step.op, step.op, layer)
            if step.family == "product":
                self._product(network, step, found)
            elif step.row.factor is not None:
                self._parameters(network, step, found)
            self._windowed(step.attributes, layer, found)
            if step.row.rounds and not self._is_wrap(network, step):
                self._rounds(network, step, found)
            elif step.row.rounds and not self.words.wraps:
                found.add("words.wraps", "a sum that wraps", "sums that do not", layer)
            if step.row.aligned:
                places = [network.align(step, i) for i in range(len(step.inputs))]
                places += [network.align(step, role) for role in step.parameters]
                most = max(int(own.max()) for own in places)
                found.unless_within("shift.align", self.shift.align, most, "places", layer)
                self._parameters(network, step, found)
            if step.family == "table":
                entries = 1 << network.tensors[step.inputs[0]].format.word_length
                found.unless_within("arithmetic.table", self.arithmetic.table, entries, "entries", layer)
        bits = network.tensors[network.input].format.word_length
        found.unless_among("words.activations", self.words.activations, bits, f"{bits} bits", network.input)
        self._recorded(network, found)
        parameters = sum(p.data.size * p.format.word_length for p in network.parameters.values())
        found.unless_within("memory.parameters", self.memory.parameters, parameters / _KIB, "KiB")
        activations = activation_bits(network)
        found.unless_within("memory.activations", self.memory.activations, activations / _KIB, "KiB")
        if self.memory.ram is not None or self.memory.flash is not None:
            taken = footprint(network)
            found.unless_within("memory.ram", self.memory.ram, taken.ram / 1024, "KiB")
            found.unless_within("memory.flash", self.memory.flash, taken.flash / 1024, "KiB")
        products = (step for step in network.steps if step.family == "product")
        self._timed(sum(products_of(network, step) for step in products), found)
        return found.all

    def _recorded(self, network: IntGraph, found: _Problems) -> None:
        """Forms that do not show in the steps, by the design that the network says it was made by."""
        design = Design.recorded(network)
        if design is None:
            return
        ops = {"average_pool"} if any(step.op == "sum_pool" for step in network.steps) else set()
        if design.batch_norm == "folded" or any(key.endswith(_BATCH_NORM) for key in network.parameters):
            ops.add("batch_norm")
        self._forms(design, ops, found)

    def _is_wrap(self, network: IntGraph, step: Step) -> bool:
        """Whether the step keeps an accumulator's low bits, as the accumulator itself would."""
        written = {earlier.name: earlier for earlier in network.steps}.get(step.inputs[0])
        wraps = step.op == "cast" and step.attributes["overflow"] == Overflow.WRAP
        return wraps and written is not None and written.family == "product" and not network.shift(step).any()

    def _product(self, network: IntGraph, step: Step, found: _Problems) -> None:
        layer, own = network.tensors[step.name].layer, self.words
        operand, (x, w) = network.tensors[step.inputs[0]].format, network.operand_widths(step)
        found.unless_among("words.weights", own.weights, w, f"{w} bits", layer)
        found.unless_among("words.activations", own.activations, x, f"{x} bits", layer)
        sign = "signed" if operand.signed else "unsigned"
        found.unless_among("arithmetic.operands", self.arithmetic.operands, sign, sign, layer)
        bits = network.tensors[step.name].format.word_length
        readers = network.readers[step.name]
        if own.wraps and readers and all(self._is_wrap(network, reader) for reader in readers):
            bits = max(network.tensors[reader.name].format.word_length for reader in readers)
        found.unless_within("words.accumulator", own.accumulator, bits, "bits", layer)
        self._sized(network.arrays(step)["weight"].shape, step.attributes.get("groups", 1), layer, found)

    def _parameters(self, network: IntGraph, step: Step, found: _Problems) -> None:
        """Each fits the longest that there is: a constant of few bits fits the words of others."""
        layer, own = network.tensors[step.name].layer, self.words.parameters
        for key in step.parameters.values():
            bits = network.parameters[key].format.word_length
            if isinstance(own, list) and bits > max(own, default=0):
                found.add("words.parameters", f"{bits} bits", _listed(own), layer)

    def _rounds(self, network: IntGraph, step: Step, found: _Problems) -> None:
        layer, own, shift = network.tensors[step.name].layer, self.arithmetic, network.shift(step)
        for name in ("rounding", "overflow"):
            if name in step.attributes:
                mode = step.attributes[name]
                found.unless_among(f"arithmetic.{name}", getattr(own, name), mode, mode, layer)
        if step.op == "cast":
            found.unless_within("shift.right", self.shift.right, int(shift.max()), "places", layer)
            found.unless_within("shift.left", self.shift.left, int(-shift.min()), "places", layer)
        self._stored(network, step.name, network.readers[step.name], found)

    def _stored(self, network: IntGraph, name: str, readers: Iterable[Step], found: _Problems) -> None:
        """A tensor has a word length of each of the units that read it."""
        tensor, multiplied = network.tensors[name], [step.family == "product" for step in readers]
        bits, own = tensor.format.word_length, self.words
        if any(multiplied):
            found.unless_among("words.activations", own.activations, bits, f"{bits} bits", tensor.layer)
        if not all(multiplied) or not multiplied:
            found.unless_among("words.bn", own.bn, bits, f"{bits} bits", tensor.layer)

    def moved(self, network: IntGraph) -> Run | None:
        """What its dataflow moves for the products of one image; None if the file describes none.

        The words are as long as the network's, whether or not the target has such words.

        Raises:
            DesignError: a layer does not fit the dataflow.
        """
        return None if self.dataflow is None else run(self.dataflow, loops(network))

    # ------------------------------------------------------------------------------------- errors

    def check(self, problems: Collection[Problem], what: str = "") -> None:
        """Refuse what has problems.

        Args:
            problems: of a design or a network.
            what: it is, for the message.

        Raises:
            DesignError: there are some, a line each.
        """
        if problems:
            lines = "\n".join(f"  {problem}" for problem in problems)
            raise DesignError(f"{what and f'{what}: '}target {self.name} rules it out:\n{lines}")


def _rule(layer_class: str, kind: str) -> str:
    """Key of the word lengths of ``kind`` in a class of layers."""
    return "words.bn" if kind == "activations" and layer_class not in _PRODUCTS else f"words.{kind}"


class _Problems:
    """Problems as they are found; the same problem of several layers is one."""

    def __init__(self) -> None:
        self._layers: dict[tuple[str, str, str], dict[str, None]] = {}

    def add(self, rule: str, given: str, expected: str, layer: str = "") -> None:
        self._layers.setdefault((rule, given, expected), {})[layer] = None

    def unless_among(
        self, rule: str, known: Collection[Any] | None, value: Any, given: str | None = None, layer: str = ""
    ) -> None:
        if known is not None and value not in known:
            self.add(rule, str(value) if given is None else given, _listed(known), layer)

    def unless_within(
        self, rule: str, most: float | None, value: float, unit: str = "", layer: str = ""
    ) -> None:
        if most is not None and value > most:
            self.add(rule, f"{value:,.6g} {unit}".rstrip(), f"at most {most:,.6g}", layer)

    @property
    def all(self) -> list[Problem]:
        return [Problem(*what, tuple(filter(None, layers))) for what, layers in self._layers.items()]


def _listed(known: Collection[Any]) -> str:
    """Ranges as such: 2..8."""
    values = list(known)
    if not values:
        return "nothing, since the list is empty"
    if (
        len(values) > 2
        and all(isinstance(v, int) for v in values)
        and values[-1] - values[0] == len(values) - 1
    ):
        return f"{values[0]}..{values[-1]}"
    return " or ".join(map(str, values))


def named_targets() -> list[str]:
    """Names of the target files in the package."""
    return sorted(path.stem for path in NAMED.glob("*.toml"))


def _read(which: str | Path) -> tuple[Path, bytes]:
    """A target file, or one of those in the package by its name: where it is, and what it holds.

    Raises:
        DesignError: there is none, or it cannot be read.
    """
    path = Path(which)
    try:
        if str(which) in named_targets() and not path.exists():
            path = NAMED / f"{which}.toml"
        return path, read_regular(path, _MOST)
    except FileNotFoundError:
        known = ", ".join(named_targets())
        raise DesignError(f"target {which}: no such file: expected one, or a name: {known}") from None
    except OSError as error:
        raise DesignError(f"{path}: {error.strerror}") from None


def target_text(which: str | Path) -> str:
    """The text of a target file, comments and all, to begin one's own from.

    Raises:
        DesignError: no such file or name, or not a target.
    """
    HardwareTarget.load(which)
    return _read(which)[1].decode("utf-8")
