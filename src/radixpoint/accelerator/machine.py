"""The accelerator of ``rtl/`` for one network: its sizes, its descriptors, its memory images, its clocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

from radixpoint.accelerator.passes import (
    CAST,
    CENTRE,
    CLAMP,
    FACTOR,
    OFFSET,
    OPERAND,
    RESULT,
    Pass,
    Schedule,
    format_bits,
    signed_bits,
)
from radixpoint.accelerator.synthesis import rtl
from radixpoint.arithmetic.formats import Overflow, Rounding, TensorFormat
from radixpoint.errors import ExportError
from radixpoint.ir.network import IntGraph, Step
from radixpoint.ir.plan import Ints

ROUNDINGS = (
    Rounding.TRN,
    Rounding.TRN_ZERO,
    Rounding.RND,
    Rounding.RND_MIN_INF,
    Rounding.RND_INF,
    Rounding.RND_ZERO,
    Rounding.RND_CONV,
)
"""By their number in ``rtl/rx_round.v``."""
CORE = tuple(
    f"rx_{name}.v"
    for name in (
        *("accelerator", "add", "array", "batch_norm", "cast", "control", "core", "divide", "dot"),
        *("lane", "limit", "memory", "offset", "pool", "round", "sums"),
    )
)
"""The files of ``rtl/`` that are the accelerator."""
MODULES = (*CORE, "rx_system.v")
"""Those and its memories."""
BUS_MODULES = (*CORE, "rx_axi.v", "rx_fetch.v", "rx_gather.v", "rx_registers.v", "rx_store.v")
"""Those and what connects it to a bus."""
LANES = 16
PLACES = 4
LANE_FIELDS = (
    *("centre", "offset", "factor", "divisor"),
    *("cast_shift", "centre_align", "offset_align", "result_shift", "operand_shift"),
    *("align_first", "align_second"),
)
"""A lane's parameters from the lowest bit on, as ``rtl/rx_accelerator.v`` takes them apart."""
_CASTS = ("cast_shift", "result_shift", "operand_shift")
_SHIFTS = LANE_FIELDS[4:]
_EXTENTS = (
    *("TILES", "IMAGES", "ROWS", "COLUMNS", "KERNEL_ROWS", "KERNEL_COLUMNS", "BLOCKS", "HEIGHT", "WIDTH"),
    *("FIRST_Y", "FIRST_X", "STRIDE_Y", "STRIDE_X", "DILATION_Y", "DILATION_X"),
)
_WALKS = (
    ("FIRST_Y", "ROWS", "STRIDE_Y", "KERNEL_ROWS", "DILATION_Y"),
    ("FIRST_X", "COLUMNS", "STRIDE_X", "KERNEL_COLUMNS", "DILATION_X"),
)
"""Of each axis: where windows begin, how many there are, how far apart, and the same of the taps in one."""
_COUNTER_BITS = 8
"""Of the counter of clocks in ``rtl/rx_control.v``."""
_PIPELINE = 12
"""Clocks after the last tap of a place until its parameters are of no more use."""


@cache
def descriptor_fields() -> tuple[str, ...]:
    """Names of a descriptor's words, from ``rtl/rx_fields.vh``."""
    return tuple(re.findall(r"^localparam F_(\w+) =", rtl("rx_fields.vh"), re.M))


_FETCH, _TILE, _LOAD, _SETTLE, _WAIT, _DRAIN = len(descriptor_fields()), 1, 1, 2, 1, 14
"""Clocks of the states of ``rtl/rx_control.v`` that do not depend on the layer (a test counts them)."""


def sizes_file(sizes: Mapping[str, int | str]) -> str:
    """``parameters.vh``: the values of parameters, by name."""
    lines = ",\n".join(f"    parameter {name} = {value}" for name, value in sizes.items())
    return f"// verilator lint_off UNUSEDPARAM\n{lines}\n// verilator lint_on UNUSEDPARAM\n"


def pack(columns: list[tuple[Ints, int]]) -> list[str]:
    """Words in hexadecimal: of each row the columns' values from the lowest bit on, each (values, bits)."""
    bits = np.concatenate(
        [((values[:, None] >> np.arange(width)) & 1).astype(np.uint8) for values, width in columns],
        axis=1,
    )
    count = -(-bits.shape[1] // 4)
    packed = np.packbits(bits, axis=1, bitorder="little")[:, ::-1]
    return [row.tobytes().hex()[-count:] for row in packed]


def pack_vectors(vectors: Ints, width: int) -> list[str]:
    """Words of vectors (words, values), all values of ``width`` bits."""
    count, lanes = vectors.shape
    bits = ((vectors[:, :, None] >> np.arange(width)) & 1).astype(np.uint8).reshape(count, lanes * width)
    digits = -(-lanes * width // 4)
    packed = np.packbits(bits, axis=1, bitorder="little")[:, ::-1]
    return [row.tobytes().hex()[-digits:] for row in packed]


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One descriptor.

    Attributes:
        owner: the pass that it is of.
        first_tile: of the pass.
        fields: by name.
        first_weight, first_parameter: the first of its words in their lists.
        weights, parameters: how many words of the lists it reads.
        clocks: that it takes, if no word is waited for.
    """

    owner: Pass
    first_tile: int
    fields: Mapping[str, int]
    first_weight: int
    first_parameter: int
    weights: int
    parameters: int
    clocks: int


class Machine:
    """The accelerator for one network.

    Args:
        network: a verified IntGraph.
        lanes: values of a vector: the array has lanes x lanes multipliers.
        places: of a convolution's result that a word of weights serves, each time it is read.
        batch: images that are computed together, so that weights are fetched once for all of them.

    Raises:
        ExportError: the accelerator cannot run the network.
    """

    def __init__(self, network: IntGraph, lanes: int = LANES, places: int = PLACES, batch: int = 1) -> None:
        for name, value, most in (("places", places, 64), ("batch", batch, 1024)):
            if not 1 <= value <= most:
                raise ExportError(f"option {name}={value}: expected 1..{most}")
        self.network, self.lanes, self.places, self.batch = network, lanes, places, batch
        self.schedule = Schedule(network, lanes, batch)
        self.plan = self.schedule.plan
        self._weights: list[Ints] = []
        self._parameters: list[dict[str, Ints]] = []

    # ------------------------------------------------------------------------- parameters of a lane

    def _values(self, pass_: Pass, tensor: str, values: Ints, filler: int = 0) -> Ints:
        """Values broadcastable to ``tensor``, by (place, slot); one row where all places are alike."""
        shape = self.network.tensors[tensor].shape
        flat = np.broadcast_to(
            values.reshape((1,) * (len(shape) - values.ndim) + values.shape), shape
        ).ravel()
        index = pass_.result.index()
        found = np.where(index < 0, filler, flat[index])
        return found[:1] if (found == found[:1]).all() else found

    def _by_channel(self, tensor: str, values: Ints) -> Ints:
        return values.reshape(-1, *[1] * (len(self.network.tensors[tensor].shape) - 1))

    def _cast_shift(self, pass_: Pass, stage: int) -> Ints:
        """Places to the right; those beyond which nothing changes any more are cut."""
        step = pass_.stages[stage]
        source, target = (self.network.tensors[n] for n in (step.inputs[0], step.name))
        shifts = self.plan.cast_shifts(step)
        most = source.format.word_length + 2
        return self._values(
            pass_, step.name, self._by_channel(step.name, np.clip(shifts, -target.format.word_length, most))
        )

    def _offset(self, pass_: Pass, stage: int) -> tuple[Ints, Ints]:
        """Value and alignment."""
        step = pass_.stages[stage]
        value = self.network.arrays(step)["value"]
        align = self.plan.left_shifts(step, "value") - self.plan.left_shifts(step, 0)
        return (
            self._values(pass_, step.name, value),
            self._values(pass_, step.name, self._by_channel(step.name, align)),
        )

    def lane_parameters(self, pass_: Pass) -> dict[str, Ints]:
        """Of one pass, each (1 or places, slots)."""
        zero = np.zeros((1, len(pass_.result.slots)), np.int64)
        result = dict.fromkeys(LANE_FIELDS, zero)
        if pass_.head is not None and pass_.head.op == "add":
            for name, operand in (("align_first", 0), ("align_second", 1)):
                shifts = self.plan.left_shifts(pass_.head, operand)
                result[name] = self._values(pass_, pass_.head.name, self._by_channel(pass_.head.name, shifts))
        for name, stage in (("cast_shift", CAST), ("operand_shift", OPERAND)):
            if stage in pass_.stages:
                result[name] = self._cast_shift(pass_, stage)
        if CENTRE in pass_.stages:
            result["centre"], result["centre_align"] = self._offset(pass_, CENTRE)
        if OFFSET in pass_.stages:
            result["offset"], result["offset_align"] = self._offset(pass_, OFFSET)
        if FACTOR in pass_.stages:
            step = pass_.stages[FACTOR]
            result["factor"] = self._values(pass_, step.name, self.network.arrays(step)["factor"])
        if RESULT in pass_.stages:
            step = pass_.stages[RESULT]
            if step.op == "divide":
                source, target = (self.network.tensors[n].format for n in (step.inputs[0], step.name))
                shift = np.array([source.fraction_lengths[0] - target.fraction_lengths[0]])
                result["divisor"] = self._values(pass_, step.name, self.network.arrays(step)["divisor"], 1)
                result["result_shift"] = self._values(pass_, step.name, self._by_channel(step.name, shift))
            else:
                result["result_shift"] = self._cast_shift(pass_, RESULT)
        return result

    @cached_property
    def lane_values(self) -> tuple[dict[str, Ints], ...]:
        """``lane_parameters`` of every pass."""
        return tuple(self.lane_parameters(pass_) for pass_ in self.schedule.passes)

    def _has_places(self, number: int) -> bool:
        return any(len(values) > 1 for values in self.lane_values[number].values())

    # ----------------------------------------------------------------------------------------- sizes

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Parameters of ``rx_system``, by name."""
        network, passes, tensors = self.network, self.schedule.passes, self.network.tensors
        wide_memory, narrow_memory = self.schedule.memories

        def format_of(names: Iterator[str]) -> int:
            return max((format_bits(tensors[n].format) for n in names), default=2)

        def exact(names: Iterator[str]) -> int:
            return max((signed_bits(tensors[n].low, tensors[n].high) for n in names), default=2)

        def field_bits(*names: str) -> int:
            every = [v for values in self.lane_values for k, v in values.items() if k in names]
            return max([2, *(signed_bits(int(v.min()), int(v.max())) for v in every)])

        def steps(*stages: int) -> Iterator[Step]:
            return (pass_.stages[s] for pass_ in passes for s in stages if s in pass_.stages)

        def parameter_bits(*stages: int) -> int:
            formats = (
                network.parameters[key].format
                for step in steps(*stages)
                for key in step.parameters.values()
                if step.op in ("scale", "offset")
            )
            return max((format_bits(form) for form in formats), default=2)

        heads = [pass_.head for pass_ in passes if pass_.head is not None]
        products = [step for step in heads if step.family == "product"]
        x = format_of(iter(narrow_memory))
        w = max((format_bits(network.parameters[s.parameters["weight"]].format) for s in products), default=2)
        acc = max((tensors[s.name].format.word_length for s in products), default=2)
        wide = max(
            format_of(iter(wide_memory)),
            format_of(step.name for step in steps(RESULT, CLAMP)),
            exact(step.inputs[0] for step in steps(CLAMP, OPERAND)),
        )
        cast = format_of(step.name for step in steps(CAST))
        path = max(acc, wide, cast, x, exact(n for pass_ in passes for n in pass_.tensors().values()))
        casts = (v for values in self.lane_values for k, v in values.items() if k in _CASTS)
        left = -min([0, *(int(v.min()) for v in casts)])
        divide = 0
        for step in steps(RESULT):
            if step.op == "divide":
                shift = int(self.network.shift(step)[0])
                divisor = int(network.arrays(step)["divisor"].max()).bit_length()
                divide = max(
                    divide,
                    path + max(-shift, 0),
                    divisor + max(shift, 0) + 2,
                    format_bits(tensors[step.name].format),
                )
        sizes = {
            "LANES": self.lanes,
            "X": x,
            "W": w,
            "ACC": acc,
            "PATH": path,
            "CAST": cast,
            "WIDE": wide,
            "MUL": exact(step.inputs[0] for step in steps(FACTOR)),
            "FACTOR": parameter_bits(FACTOR),
            "OFFSET": parameter_bits(CENTRE, OFFSET),
            "SHIFT": field_bits(*_SHIFTS),
            "LEFT": left,
            "DIVIDE": divide,
            "DIVISOR": field_bits("divisor"),
        }
        if path > 64:
            raise ExportError(f"values of {path} bits: expected at most 64")
        return sizes

    # ----------------------------------------------------------------------------------- descriptors

    @cached_property
    def descriptors(self) -> tuple[Descriptor, ...]:
        made: list[Descriptor] = []
        first_weight = first_parameter = 0
        for number, pass_ in enumerate(self.schedule.passes):
            for tiles, inputs in self.schedule.tiles(pass_):
                fields = self._descriptor(number, tiles, inputs)
                fields["FINAL"] = 0
                weights = fields["WINDOW"] * len(tiles)
                parameters = len(tiles) * (self.batch * pass_.result.places if fields["PLACED"] else 1)
                lists = (first_weight, first_parameter, weights, parameters)
                first = pass_.first_block + tiles.start
                made.append(Descriptor(pass_, first, fields, *lists, self._clocks(fields)))
                first_weight, first_parameter = first_weight + weights, first_parameter + parameters
        made[-1] = replace(made[-1], fields={**made[-1].fields, "FINAL": 1})
        return tuple(made)

    def _descriptor(self, number: int, tiles: range, inputs: range) -> dict[str, int]:
        schedule, pass_ = self.schedule, self.schedule.passes[number]
        wide, narrow = schedule.memories
        window, source = schedule.window(pass_), schedule.layouts[pass_.inputs[0]]
        step = schedule.blocks(source)
        memory = narrow if pass_.kind == 0 else wide
        base = memory[pass_.inputs[0]]
        corner = (window.corner[0] * source.width + window.corner[1]) * step
        taps, block_step = len(inputs), 1
        if pass_.kind != 0:
            taps = 2 if pass_.head is not None and pass_.head.op == "add" else 1
            block_step = memory[pass_.inputs[-1]] - base
        first = inputs.start if pass_.kind == 0 else tiles.start
        division = RESULT in pass_.stages and pass_.stages[RESULT].op == "divide"
        gap = self.sizes["DIVIDE"] + _PIPELINE if division else _PIPELINE if self._has_places(number) else 0
        fields = {
            "KIND": pass_.kind,
            "STAGES": sum(1 << stage for stage in pass_.stages),
            "DIVIDE": int(division),
            "WRITES": (pass_.wide is not None) + 2 * (pass_.narrow is not None),
            "TILES": len(tiles),
            "IMAGES": self.batch,
            "ROWS": pass_.result.height,
            "COLUMNS": pass_.result.width,
            "KERNEL_ROWS": window.kernel[0],
            "KERNEL_COLUMNS": window.kernel[1],
            "BLOCKS": taps,
            "HEIGHT": source.height,
            "WIDTH": source.width,
            "FIRST_Y": window.corner[0],
            "FIRST_X": window.corner[1],
            "STRIDE_Y": window.strides[0],
            "STRIDE_X": window.strides[1],
            "DILATION_Y": window.dilations[0],
            "DILATION_X": window.dilations[1],
            "READ": base + corner + first,
            "READ_TILE": 0 if pass_.kind == 0 else 1,
            "READ_IMAGE": source.places * step,
            "READ_ROW": window.strides[0] * source.width * step,
            "READ_COLUMN": window.strides[1] * step,
            "READ_KERNEL_ROW": window.dilations[0] * source.width * step,
            "READ_KERNEL_COLUMN": window.dilations[1] * step,
            "READ_BLOCK": block_step,
            "WINDOW": window.kernel[0] * window.kernel[1] * taps if pass_.kind == 0 else 0,
            "PLACED": int(self._has_places(number)),
            "GAP": gap,
        }
        for name, tensor, addresses in (("WIDE", pass_.wide, wide), ("NARROW", pass_.narrow, narrow)):
            fields[name] = fields[f"{name}_PLACE"] = 0
            if tensor is not None:
                fields[name] = addresses[tensor] + pass_.first_block + tiles.start
                fields[f"{name}_PLACE"] = schedule.blocks(schedule.layouts[tensor])
        for name, stage in (("CAST", CAST), ("RESULT", RESULT), ("OPERAND", OPERAND)):
            chosen = pass_.stages.get(stage)
            form = None if chosen is None else self.network.tensors[chosen.name].format
            fields |= _conversion(name, chosen, form)
        clamp = pass_.stages.get(CLAMP)
        fields["CLAMP_LOW"], fields["CLAMP_HIGH"] = (
            (0, 0) if clamp is None else (clamp.attributes["low"], clamp.attributes["high"])
        )
        return fields

    def _clocks(self, fields: Mapping[str, int]) -> int:
        places = fields["IMAGES"] * fields["ROWS"] * fields["COLUMNS"]
        taps = fields["KERNEL_ROWS"] * fields["KERNEL_COLUMNS"] * fields["BLOCKS"]
        # Weights of the first tile are waited for; those of the others are there when their tile begins.
        load = fields["WINDOW"] + _LOAD * (fields["TILES"] - 1) if fields["WINDOW"] else 0
        waits = _SETTLE + fields["GAP"] + _WAIT
        run = places * (taps + waits) if fields["GAP"] else places * taps + _SETTLE
        return _FETCH + load + fields["TILES"] * (_TILE + run + _DRAIN)

    def clocks(self) -> int:
        """Clocks from start to done of one batch."""
        return sum(d.clocks for d in self.descriptors) + 1

    # --------------------------------------------------------------------------------- memory images

    @cached_property
    def parameters(self) -> Mapping[str, int]:
        """All of ``parameters.vh``."""
        schedule, wide = self.schedule, self.schedule.memories[0]
        in_wide, in_narrow = schedule.image_in
        image = self.network.input
        depth = [
            max([2, *(memory[n] + self.batch * schedule.size(n) for n in memory)])
            for memory in schedule.memories
        ]
        fields = [d.fields for d in self.descriptors]
        extents = [end for f in fields for end in walked(f)]
        stored = sum(d.weights for d in self.descriptors)
        rows = sum(d.parameters for d in self.descriptors)

        def bits(words: int) -> int:
            return max(1, (words - 1).bit_length())

        numbers = {
            **self.sizes,
            "ADDRESS": bits(max(depth)),
            "STORE": bits(stored),
            "PARAMETER": bits(rows),
            "DESCRIPTOR": bits(len(fields) * len(descriptor_fields())),
            "WINDOW": bits(max(f["WINDOW"] for f in fields)),
            "EXTENT": max(signed_bits(min(extents), max(extents)), 4),
            "PLACES": self.places,
            "PLACE": bits(self.places),
            "BATCH": self.batch,
            "DESCRIPTORS": len(fields) * len(descriptor_fields()),
            "STORES": max(2, stored),
            "PARAMETERS": max(2, rows),
            "NARROWS": depth[1],
            "WIDES": depth[0],
            "PIXEL": format_bits(self.network.tensors[image].format),
            "IMAGE_WORDS": schedule.size(image),
            "IMAGE_WIDE": wide[image] if in_wide else -1,
            "IMAGE_NARROW": schedule.memories[1][image] if in_narrow else -1,
            "LOGIT_WORDS": schedule.size(schedule.output),
            "LOGIT_ADDRESS": wide[schedule.output],
        }
        for descriptor in self.descriptors:
            check_fields(descriptor.fields, numbers)
        return numbers

    def descriptor_words(self) -> Iterator[str]:
        """Lines of ``descriptors.hex``."""
        for d in self.descriptors:
            for name in descriptor_fields():
                yield f"{d.fields[name] & ((1 << 64) - 1):016x}"

    def weight_words(self) -> Iterator[str]:
        """Lines of ``weights.hex``, in the order in which they are read."""
        for pass_ in self.schedule.passes:
            if pass_.kind == 0:
                for tiles, inputs in self.schedule.tiles(pass_):
                    for tile in tiles:
                        words = self.schedule.weights(pass_, tile, inputs)
                        yield from pack_vectors(words.reshape(len(words), -1), self.sizes["W"])

    def parameter_words(self) -> Iterator[str]:
        """Lines of ``parameters.hex``, in the order in which they are read."""
        sizes, lanes = self.sizes, self.lanes
        widths = {"centre": sizes["OFFSET"], "offset": sizes["OFFSET"], "factor": sizes["FACTOR"]}
        widths["divisor"] = sizes["DIVISOR"]
        values = dict(zip((id(pass_) for pass_ in self.schedule.passes), self.lane_values, strict=True))
        for d in self.descriptors:
            whole = values[id(d.owner)]
            count = d.owner.result.places if d.fields["PLACED"] else 1
            first = (d.first_tile - d.owner.first_block) * lanes
            for tile in range(first, first + d.fields["TILES"] * lanes, lanes):
                rows = {
                    n: np.broadcast_to(v, (count, v.shape[1]))[:, tile : tile + lanes]
                    for n, v in whole.items()
                }
                words = pack(
                    [
                        (rows[name][:, lane], widths.get(name, sizes["SHIFT"]))
                        for lane in range(lanes)
                        for name in LANE_FIELDS
                    ]
                )
                yield from words * (self.batch if d.fields["PLACED"] else 1)

    def image_words(self, images: Ints) -> Iterator[str]:
        """Lines of ``images.hex``: vectors of each image, values of PIXEL bits."""
        yield from self._vectors(images, self.network.input, self.parameters["PIXEL"])

    def logit_words(self, logits: Ints) -> Iterator[str]:
        """Lines of ``logits.hex``: vectors of WIDE bits."""
        yield from self._vectors(logits, self.schedule.output, self.sizes["WIDE"])

    def _vectors(self, values: Ints, name: str, bits: int) -> Iterator[str]:
        index = self.schedule.layouts[name].index()
        for pass_ in values.reshape(len(values), -1):
            found = np.where(index < 0, 0, pass_[index])
            yield from pack_vectors(found.reshape(-1, self.lanes), bits)

    def traced(self, descriptor: Descriptor) -> dict[int, tuple[str, Ints]]:
        """Of each stage that computes a tensor: its name, and the index in it of each value.

        The index is (tiles, places, lanes); -1 stands for a lane that holds none.
        """
        f = descriptor.fields
        first = descriptor.first_tile * self.lanes
        result = {}
        for stage, name in descriptor.owner.tensors().items():
            index = self.schedule.layouts[name].index()[:, first : first + f["TILES"] * self.lanes]
            result[stage] = (name, index.reshape(-1, f["TILES"], self.lanes).transpose(1, 0, 2))
        return result


def walked(fields: Mapping[str, int]) -> tuple[int, int]:
    """Least and largest of what counters of rows, columns and taps of a descriptor ever hold.

    Those of places go on by one stride after the last window, and those of taps by one dilation.
    """
    seen = [fields[name] for name in _EXTENTS]
    for first, count, stride, kernel, dilation in _WALKS:
        least, steps = fields[first], fields[count] * fields[stride]
        seen += [least + steps + fields[kernel] * fields[dilation]]
    return min(0, *seen), max(seen)


def check_fields(fields: Mapping[str, int], numbers: Mapping[str, int]) -> None:
    """See that the hardware's counters and registers hold each field of a descriptor, at its longest use.

    Raises:
        ExportError: one is too narrow, which is a defect of this file.
    """
    low, high = walked(fields)
    unsigned = {"WINDOW": numbers["WINDOW"] + 1, "GAP": _COUNTER_BITS, "KIND": 2, "STAGES": 8}
    unsigned |= {f"{stage}_ROUNDING": 3 for stage in ("CAST", "RESULT", "OPERAND")}
    unsigned |= {"WIDE": numbers["ADDRESS"], "NARROW": numbers["ADDRESS"]}
    signed = {
        "CAST": numbers["CAST"],
        "RESULT": numbers["WIDE"],
        "CLAMP": numbers["WIDE"],
        "OPERAND": numbers["X"],
    }
    for name, width in unsigned.items():
        if not 0 <= fields[name] < 1 << width:
            raise ExportError(f"descriptor field {name} = {fields[name]}: its register has {width} bits")
    for name, width in signed.items():
        for end in (fields[f"{name}_LOW"], fields[f"{name}_HIGH"]):
            if not -(1 << (width - 1)) <= end < 1 << (width - 1):
                raise ExportError(f"descriptor limit {name} = {end}: its register has {width} bits")
    if signed_bits(low, high) > numbers["EXTENT"]:
        raise ExportError(f"counters of a descriptor reach {low}..{high}: they have {numbers['EXTENT']} bits")


def _conversion(name: str, step: Step | None, form: TensorFormat | None) -> dict[str, int]:
    """Fields of a cast or division."""
    rounding = overflow = low = high = 0
    if step is not None and form is not None:
        mode = Overflow(step.attributes["overflow"])
        rounding = ROUNDINGS.index(Rounding(step.attributes["rounding"]))
        overflow = int(mode is Overflow.WRAP)
        low, high = form.limits(mode)
    return {f"{name}_ROUNDING": rounding, f"{name}_WRAP": overflow, f"{name}_LOW": low, f"{name}_HIGH": high}
