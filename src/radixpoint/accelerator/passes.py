"""A network as passes over the accelerator of ``rtl/``: what each reads, computes and keeps, and where.

A pass is a head (convolution, pooling, addition or a copy from memory) and a chain of element-wise steps,
each in a stage of the pipeline (``rtl/rx_lane.v``). Vectors hold ``lanes`` channels. A layout says which
channel lies in which slot of a tensor's vectors: a concatenation keeps the gaps of its parts, flattening
moves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.errors import ExportError
from radixpoint.ir.arena import arena_layout
from radixpoint.ir.network import IntGraph, IntTensor, Step
from radixpoint.ir.plan import Ints, Plan

CAST, CENTRE, FACTOR, OFFSET, RESULT, CLAMP, OPERAND = range(1, 8)
"""Stages after the head (0)."""
_STAGES_OF: Mapping[str, tuple[int, ...]] = {
    "cast": (CAST, RESULT),
    "offset": (CENTRE, OFFSET),
    "scale": (FACTOR,),
    "divide": (RESULT,),
    "clamp": (CLAMP,),
}
_KINDS: Mapping[str, int] = {"conv": 0, "dense": 0, "add": 1, "max_pool": 2, "sum_pool": 3}
_COPY = 1


def signed_bits(low: int, high: int) -> int:
    """Bits of the two's complement numbers low..high."""
    return (
        max((-low - 1 if low < 0 else low).bit_length(), (-high - 1 if high < 0 else high).bit_length()) + 1
    )


def format_bits(form: TensorFormat) -> int:
    """Bits of a format as two's complement: an unsigned one needs one more."""
    return form.word_length + (not form.signed)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the values of a tensor lie.

    Attributes:
        height, width: places, in rows and columns.
        slots: the channel in each slot of a place's vectors, -1 for none; whole vectors.
        fold: rows and columns of the tensor that share a place: slot ``(row * columns + column) * channels +
            channel`` of ``slots`` is that of a row and column of the block.
        corner: row and column of the tensor where the first block begins; what is outside it is 0.
        sides: rows and columns of the tensor, where several share a place.
    """

    height: int
    width: int
    slots: tuple[int, ...]
    fold: tuple[int, int] = (1, 1)
    corner: tuple[int, int] = (0, 0)
    sides: tuple[int, int] = (0, 0)

    @property
    def places(self) -> int:
        return self.height * self.width

    def index(self) -> Ints:
        """(places, slots): index of each value in the tensor of the IR, flattened; -1 for none.

        A flattened tensor of the IR counts places fastest, as does one that is not flattened.
        """
        slots = np.array(self.slots)
        places = np.arange(self.places)[:, None]
        if self.fold == (1, 1):
            return np.where(slots < 0, -1, slots * self.places + places)
        inside, channel = np.divmod(slots, (max(self.slots) + 1) // math.prod(self.fold))
        rows = self.corner[0] + places // self.width * self.fold[0] + inside // self.fold[1]
        columns = self.corner[1] + places % self.width * self.fold[1] + inside % self.fold[1]
        height, width = self.sides
        there = (slots >= 0) & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return np.where(there, (channel * height + rows) * width + columns, -1)


@dataclass(slots=True)
class Pass:
    """One pass.

    Attributes:
        head: the step that it begins with; None copies ``inputs[0]``.
        inputs: names of the tensors it reads from memory.
        result: layout of what it computes.
        stages: the element-wise step of each stage in use.
        first_block: of the result's vectors that it writes (beyond 0 only for a part of a concatenation).
        wide, narrow: the tensors that it keeps in the wide and in the narrow memory.
    """

    head: Step | None
    inputs: tuple[str, ...]
    result: Layout
    value: str
    stages: dict[int, Step] = field(default_factory=dict)
    part_of: Step | None = None
    first_block: int = 0
    wide: str | None = None
    narrow: str | None = None

    @property
    def kind(self) -> int:
        return _COPY if self.head is None else _KINDS[self.head.op]

    @property
    def last_stage(self) -> int:
        return max(self.stages, default=0)

    def tensors(self) -> dict[int, str]:
        """The tensor of the IR that each stage computes."""
        made = {stage: step.name for stage, step in self.stages.items()}
        head = self.head or self.part_of
        return made if head is None else {0: head.name, **made}


@dataclass(frozen=True, slots=True)
class Window:
    """What a convolution or pooling walks over at each place."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    corner: tuple[int, int]


class Schedule:
    """A network as passes.

    Args:
        network: a verified IntGraph.
        lanes: values of a vector.
        batch: images that are in memory together.

    Raises:
        ExportError: the accelerator cannot run the network, with the layer and the reason.
    """

    def __init__(self, network: IntGraph, lanes: int, batch: int = 1) -> None:
        if not 1 <= lanes <= 64:
            raise ExportError(f"option lanes={lanes}: expected 1..64")
        self.network, self.lanes, self.batch, self.plan = network, lanes, batch, Plan(network)
        self.alias: dict[str, str] = {}
        for step in network.steps:
            if step.op == "flatten":
                self.alias[step.name] = self.real(step.inputs[0])
            if self.plan.is_stochastic(step):
                raise ExportError(
                    f"layer {network.tensors[step.name].layer!r}: STOCHASTIC rounding: the accelerator "
                    "draws no random numbers"
                )
        self._readers: dict[str, list[Step]] = {name: [] for name in network.tensors}
        for step in network.steps:
            if step.op != "flatten":
                for name in dict.fromkeys(map(self.real, step.inputs)):
                    self._readers[name].append(step)
        self.output = self.real(network.output)
        if self.output == network.input:
            raise ExportError("the result is the image itself: there is nothing to compute")
        self.layouts: dict[str, Layout] = {network.input: self._image()}
        self.passes: tuple[Pass, ...] = tuple(self._schedule())
        for pass_ in self.passes:
            self._keep(pass_)

    # ------------------------------------------------------------------------------------ the passes

    def real(self, name: str) -> str:
        """The tensor whose memory this one is: its source, if it is flattened."""
        return self.alias.get(name, name)

    def tensor(self, name: str) -> IntTensor:
        return self.network.tensors[name]

    def blocks(self, layout: Layout) -> int:
        """Vectors at each place."""
        return len(layout.slots) // self.lanes

    def _fresh(self, name: str) -> Layout:
        shape = self.tensor(name).shape
        channels = shape[0] if len(shape) == 3 else math.prod(shape)
        height, width = shape[1:] if len(shape) == 3 else (1, 1)
        gaps = (-1,) * (-channels % self.lanes)
        return Layout(height, width, (*range(channels), *gaps))

    def _image(self) -> Layout:
        """Of the image.

        As many rows and columns as the first convolution strides share a place, where it takes fewer taps so:
        with three channels most lanes would be idle.
        """
        image = self.network.input
        plain, readers = self._fresh(image), self._readers[image]
        if len(readers) != 1 or readers[0].op != "conv":
            return plain
        attributes, weight = readers[0].attributes, self.network.arrays(readers[0])["weight"]
        fold = tuple(attributes["strides"])
        if attributes["groups"] != 1 or tuple(attributes["dilations"]) != (1, 1):
            return plain
        channels, sides = weight.shape[1], self.tensor(image).shape[1:]
        folded = math.prod(fold) * channels
        taps = [-(-side // step) for side, step in zip(weight.shape[2:], fold, strict=True)]
        if math.prod(taps) * -(-folded // self.lanes) >= math.prod(weight.shape[2:]) * self.blocks(plain):
            return plain
        before = attributes["pads"][:2]  # blocks begin where the first window does
        first = [pad // step for pad, step in zip(before, fold, strict=True)]
        height, width = (
            -(-(side + pad) // step) - skipped
            for side, pad, step, skipped in zip(sides, before, fold, first, strict=True)
        )
        corner = [step * skipped - pad for pad, step, skipped in zip(before, fold, first, strict=True)]
        slots = (*range(folded), *(-1,) * (-folded % self.lanes))
        pairs = ((fold[0], fold[1]), (corner[0], corner[1]), (sides[0], sides[1]))
        return Layout(height, width, slots, *pairs)

    def _reads_narrow(self, step: Step) -> bool:
        return step.family == "product"

    def _schedule(self) -> list[Pass]:
        passes: list[Pass] = []
        open_pass: Pass | None = None
        for step in self.network.steps:
            if step.op == "flatten":
                continue
            sources = tuple(self.real(name) for name in step.inputs)
            if step.op == "concat":
                passes += self._concat(step, sources)
                open_pass = None
            elif step.row.pointwise:
                layout = self.layouts[sources[0]]
                stage = None if open_pass is None else self._stage(open_pass, step, sources[0])
                if stage is None:
                    open_pass = Pass(None, sources, layout, sources[0])
                    passes.append(open_pass)
                    stage = self._stage(open_pass, step, sources[0], alone=True)
                    assert stage is not None
                assert open_pass is not None
                open_pass.stages[stage] = step
                self.layouts[step.name] = layout
                if stage == OPERAND:
                    open_pass = None
                else:
                    open_pass.value = step.name
            else:
                open_pass = self._head(step, sources)
                self.layouts[step.name] = open_pass.result
                passes.append(open_pass)
        return passes

    def _stage(self, pass_: Pass, step: Step, source: str, alone: bool = False) -> int | None:
        """The stage of ``one`` that can do ``step`` after what it does already."""
        if pass_.value != source:
            return None
        others = [] if alone else [s for s in self._readers[source] if s is not step]
        if any(map(self._reads_narrow, others)):
            return None
        readers = self._readers[step.name]
        if (
            step.op == "cast"
            and readers
            and step.name != self.output
            and all(map(self._reads_narrow, readers))
        ):
            return OPERAND
        if others or (source == self.output and not alone):
            return None
        return next((s for s in _STAGES_OF[step.op] if s > pass_.last_stage), None)

    def _head(self, step: Step, sources: tuple[str, ...]) -> Pass:
        if step.op == "add":
            first, second = (self.layouts[name] for name in sources)
            if first != second:
                raise ExportError(
                    f"layer {self.tensor(step.name).layer!r}: adds tensors whose channels lie in vectors of "
                    f"{self.lanes} differently: expected option lanes to divide the channels of every "
                    "part of a concatenation"
                )
            return Pass(step, sources, first, step.name)
        if step.family == "window":
            _, height, width = self.tensor(step.name).shape
            return Pass(step, sources, Layout(height, width, self.layouts[sources[0]].slots), step.name)
        return Pass(step, sources, self._fresh(step.name), step.name)

    def _concat(self, step: Step, sources: tuple[str, ...]) -> list[Pass]:
        parts: list[Pass] = []
        slots: list[int] = []
        first = 0
        height, width = self.layouts[sources[0]].height, self.layouts[sources[0]].width
        for name, real in zip(step.inputs, sources, strict=True):
            layout = self.layouts[real]
            if (layout.height, layout.width) != (height, width):  # flattened, they still lie as they were
                raise ExportError(
                    f"layer {self.tensor(step.name).layer!r}: concatenates flattened tensors of {height} x "
                    f"{width} and {layout.height} x {layout.width} places: expected as many of each"
                )
            parts.append(
                Pass(None, (real,), layout, step.name, part_of=step, first_block=len(slots) // self.lanes)
            )
            slots += [s + first if s >= 0 else -1 for s in layout.slots]
            first += math.prod(self.tensor(name).shape) // (height * width)
        self.layouts[step.name] = Layout(height, width, tuple(slots))
        return parts

    def _keep(self, pass_: Pass) -> None:
        """Decide what the pass writes, by who reads it later."""
        if OPERAND in pass_.stages:
            pass_.narrow = pass_.stages[OPERAND].name
        if pass_.head is None and pass_.part_of is None and pass_.value == pass_.inputs[0]:
            return
        own = {id(step) for step in pass_.stages.values()}
        later = [step for step in self._readers[pass_.value] if id(step) not in own]
        if any(not self._reads_narrow(step) for step in later) or pass_.value == self.output:
            pass_.wide = pass_.value
        if pass_.narrow is None and any(map(self._reads_narrow, later)):
            pass_.narrow = pass_.value

    # ---------------------------------------------------------------------------------------- memory

    @cached_property
    def image_in(self) -> tuple[bool, bool]:
        """Whether the image is read from the wide and from the narrow memory."""
        readers = self._readers[self.network.input]
        narrow = [self._reads_narrow(step) for step in readers]
        return not all(narrow), any(narrow)

    @cached_property
    def memories(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """Address of the first vector of each tensor in the wide and in the narrow memory."""
        lives: tuple[dict[str, list[int]], dict[str, list[int]]] = ({}, {})
        image = self.network.input
        for memory, used in zip(lives, self.image_in, strict=True):
            if used:
                memory[image] = [-1, -1]
        for number, pass_ in enumerate(self.passes):
            for memory, name in zip(lives, (pass_.wide, pass_.narrow), strict=True):
                if name is not None:
                    memory.setdefault(name, [number, number])[1] = number
            for name in pass_.inputs:
                lives[pass_.kind == 0][name][1] = number
        lives[0][self.output][1] = len(self.passes)
        wide, narrow = (
            arena_layout(
                {n: self.batch * self.size(n) for n in memory},
                {n: (first, last) for n, (first, last) in memory.items()},
            )
            for memory in lives
        )
        return wide, narrow

    def size(self, name: str) -> int:
        """Vectors of a tensor of one image; those of the next image follow them."""
        layout = self.layouts[name]
        return layout.places * self.blocks(layout)

    # --------------------------------------------------------------------------------------- windows

    def window(self, pass_: Pass) -> Window:
        """What the head walks over."""
        if pass_.head is None or pass_.head.op == "add":
            return Window((1, 1), (1, 1), (1, 1), (0, 0))
        attributes = pass_.head.attributes
        if pass_.head.op == "dense":
            source = self.layouts[pass_.inputs[0]]
            return Window((source.height, source.width), (1, 1), (1, 1), (0, 0))
        if pass_.head.op == "conv":
            kernel = self.network.arrays(pass_.head)["weight"].shape[2:]
        else:
            kernel = tuple(attributes["kernel"])
        top, left = attributes["pads"][:2]
        fold = self.layouts[pass_.inputs[0]].fold
        if fold != (1, 1):
            taps = (-(-kernel[0] // fold[0]), -(-kernel[1] // fold[1]))
            return Window(taps, (1, 1), (1, 1), (-(top // fold[0]), -(left // fold[1])))
        dilations = attributes.get("dilations", (1, 1))
        return Window(kernel, tuple(attributes["strides"]), tuple(dilations), (-top, -left))

    def tiles(self, pass_: Pass) -> list[tuple[range, range]]:
        """Tiles of the result and blocks of the input of each descriptor of the pass.

        One descriptor does all, except in a convolution with groups, where a tile needs only its own inputs.
        """
        source, outputs = self.layouts[pass_.inputs[0]], range(self.blocks(pass_.result))
        if pass_.kind != 0 or pass_.head is None or pass_.head.attributes.get("groups", 1) == 1:
            return [(outputs, range(self.blocks(source)))]
        weight = self.network.arrays(pass_.head)["weight"]
        each = len(weight) // pass_.head.attributes["groups"]
        slot_of = {channel: slot for slot, channel in enumerate(source.slots)}
        result = []
        for tile in outputs:
            channels = self._tile_channels(pass_, tile)
            groups = range(min(channels) // each, max(channels) // each + 1)
            slots = [
                slot_of[c] for g in groups for c in range(g * weight.shape[1], (g + 1) * weight.shape[1])
            ]
            result.append(
                (range(tile, tile + 1), range(min(slots) // self.lanes, max(slots) // self.lanes + 1))
            )
        return result

    def _tile_channels(self, pass_: Pass, tile: int) -> list[int]:
        return [c for c in pass_.result.slots[tile * self.lanes : (tile + 1) * self.lanes] if c >= 0]

    def weights(self, pass_: Pass, tile: int, blocks: range) -> Ints:
        """Weights of a tile: (words, output lanes, input lanes), a word for each tap in its order."""
        assert pass_.head is not None
        source = self.layouts[pass_.inputs[0]]
        weight = self.network.arrays(pass_.head)["weight"]
        if weight.ndim == 2:
            weight = weight.reshape(len(weight), -1, source.height, source.width)
        if source.fold != (1, 1):
            weight = _folded(weight, source.fold)
        each = len(weight) // pass_.head.attributes.get("groups", 1)
        inputs = weight.shape[1]
        slots = np.array(source.slots[blocks.start * self.lanes : blocks.stop * self.lanes])
        rows, columns = weight.shape[2:]
        words = np.zeros((self.lanes, rows, columns, len(slots)), np.int64)
        for lane, channel in enumerate(self._tile_channels(pass_, tile)):
            own = (slots >= channel // each * inputs) & (slots < (channel // each + 1) * inputs)
            words[lane][..., own] = weight[channel][slots[own] % inputs].transpose(1, 2, 0)
        return words.reshape(self.lanes, -1, self.lanes).transpose(1, 0, 2)


def _folded(weight: Ints, fold: tuple[int, int]) -> Ints:
    """Weights of a convolution whose inputs share places: (outputs, rows * columns * channels, taps)."""
    outputs, channels, *kernel = weight.shape
    taps = [-(-side // step) for side, step in zip(kernel, fold, strict=True)]
    padded = np.zeros((outputs, channels, taps[0] * fold[0], taps[1] * fold[1]), weight.dtype)
    padded[:, :, : kernel[0], : kernel[1]] = weight
    parts = padded.reshape(outputs, channels, taps[0], fold[0], taps[1], fold[1])
    return parts.transpose(0, 3, 5, 1, 2, 4).reshape(outputs, -1, *taps)
