"""A stage: what happens to a tile of integers while it is in the registers and the first-level cache."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.formats import Overflow, Rounding
from radixpoint.engines.native.isa import native
from radixpoint.ir.network import IntGraph, IntTensor, Step

Ints = NDArray[np.int64]
Carrier = Literal["U8", "I16", "I32", "I64"]
"""How integers lie in memory; U8 holds value + zero, zero being 0 or 128."""
RANGES: Mapping[Carrier, tuple[int, int]] = {
    "U8": (-128, 255),
    "I16": (-(1 << 15), (1 << 15) - 1),
    "I32": (-(1 << 31), (1 << 31) - 1),
    "I64": (-(1 << 63), (1 << 63) - 1),
}
Correction = Literal["NONE", "SIGN", "ODD"]
"""The part of a rounding mode that depends on the value: none, where it is negative, where it is odd."""
SPLIT = 16
"""Where sums beyond 32 bits are split in two planes, unless the stage behind asks for less."""
LEAST_SPLIT = 8
MOST_LEFT = 14
"""So many places to the left are a factor that 16 bits with a sign hold."""


class Unsupported(Exception):
    """The kernels cannot compute this; its text says why."""


def within(tensor: IntTensor, carrier: Carrier) -> bool:
    low, high = RANGES[carrier]
    return tensor.low >= low and tensor.high <= high


def wide(tensor: IntTensor, times: int = 1) -> bool:
    """Whether 32 bits are too few for so many times the tensor's integers."""
    low, high = RANGES["I32"]
    return times * tensor.low < low or times * tensor.high > high


def magnitude(tensor: IntTensor) -> int:
    return max(-tensor.low, tensor.high)


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height, width of a tensor."""
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (shape[0], 1, 1)


@dataclass
class Stage:
    """What a stage does to the tensor it takes; see program.hpp. Fields are one value a channel."""

    network: IntGraph
    source: IntTensor
    result: str
    nothing: bool = True
    channels: int = 0
    factor: Ints | None = None
    left: Ints = field(init=False)
    addend: Ints = field(init=False)
    other: str | None = None
    by_other: bool = False
    table: Ints | None = None
    first: int = 0
    divisor: int = 0
    dividend_left: int = 0
    other_left: Ints = field(init=False)
    rounded: bool = False
    shift: Ints = field(init=False)
    rounding: Rounding = Rounding.TRN
    limit: Literal["CLAMP", "WRAP_SIGNED", "WRAP_UNSIGNED"] = "CLAMP"
    wrap_bits: int = 64
    low: int = RANGES["I64"][0]
    high: int = RANGES["I64"][1]
    store: str | None = None

    def __post_init__(self) -> None:
        self.channels = self.source.shape[0]
        self.left, self.addend, self.other_left, self.shift = (
            np.zeros(self.channels, np.int64) for _ in range(4)
        )

    def with_step(self, step: Step) -> Stage | None:
        """This stage and then ``step``; None if its place has passed or 64 bits would not hold the sums.

        Raises:
            Unsupported: no stage can do it.
        """
        longer = copy(self)
        current = self.network.tensors[self.result]
        if not getattr(longer, f"_{step.op}")(step, current):
            return None
        longer.result, longer.nothing = step.name, False
        return longer if longer.bound() <= RANGES["I64"][1] else None

    def _per_channel(self, values: Ints) -> Ints:
        if values.size not in (1, self.channels) or values.shape[0] != values.size:
            raise Unsupported("a parameter that differs within a channel")
        return np.broadcast_to(values.reshape(-1), (self.channels,)).copy()

    def _shifted(self, values: Ints, places: Ints) -> Ints:
        most = int(np.abs(values).max()).bit_length() + int(places.max())
        if most > 62:
            raise Unsupported(f"a parameter of {most} bits")
        return values << places

    def _by_channel(self, places: Ints) -> Ints:
        return np.broadcast_to(places, (self.channels,)).copy()

    def _shift_left(self, places: Ints) -> None:
        if not places.any():
            return
        if self.factor is not None:
            self.factor = self._shifted(self.factor, places)
        else:
            self.left = self.left + places
        self.addend = self._shifted(self.addend, places)
        self.other_left = self.other_left + places

    @property
    def single(self) -> bool:
        """Whether it computes an integer at a time and nothing else joins it."""
        return self.table is not None or self.divisor > 0

    def _lookup(self, step: Step, current: IntTensor) -> bool:
        if not self.nothing:
            return False
        if wide(current):
            raise Unsupported("looks up integers beyond 32 bits")
        self.table, self.first = self.network.arrays(step)["table"], step.attributes["first"]
        return True

    def _divide(self, step: Step, current: IntTensor) -> bool:
        if not self.nothing:
            return False
        divisor, shift = self.network.arrays(step)["divisor"], int(self.network.shift(step)[0])
        if divisor.size != 1:
            raise Unsupported("divisors that differ from place to place")
        self.divisor, self.dividend_left = int(divisor.flat[0]) << max(shift, 0), max(-shift, 0)
        form, overflow = self.network.tensors[step.name].format, Overflow(step.attributes["overflow"])
        self.rounding = Rounding(step.attributes["rounding"])
        if overflow is Overflow.WRAP:
            self.limit = "WRAP_SIGNED" if form.signed else "WRAP_UNSIGNED"
            self.wrap_bits = form.word_length
        else:
            self.low, self.high = form.limits(overflow)
        return True

    def _multiply(self, step: Step, current: IntTensor) -> bool:
        if not self.nothing:
            return False
        other = step.inputs[1 - step.inputs.index(self.result)]
        shape, own = self.network.tensors[other].shape, current.shape
        if shape != own and shape != (own[0], *[1] * (len(own) - 1)):
            raise Unsupported("a product with one value for all channels, or of a smaller tensor")
        self.other, self.by_other = other, True
        return True

    def _scale(self, step: Step, current: IntTensor) -> bool:
        if self.single or self.by_other:
            return False
        if self.factor is not None or self.left.any() or self.addend.any() or self.other or self.rounded:
            return False
        self.factor = self._per_channel(self.network.arrays(step)["factor"])
        return True

    def _offset(self, step: Step, current: IntTensor) -> bool:
        if self.rounded or self.single or self.by_other:
            return False
        self._shift_left(self._by_channel(self.network.align(step, 0)))
        value = self._per_channel(self.network.arrays(step)["value"])
        self.addend = self.addend + self._shifted(value, self._by_channel(self.network.align(step, "value")))
        return True

    def _add(self, step: Step, current: IntTensor) -> bool:
        if self.rounded or self.single or self.other is not None:
            return False
        own = step.inputs.index(self.result)
        self._shift_left(self._by_channel(self.network.align(step, own)))
        self.other = step.inputs[1 - own]
        self.other_left = self._by_channel(self.network.align(step, 1 - own))
        return True

    def _cast(self, step: Step, current: IntTensor) -> bool:
        if self.rounded or self.single:
            return False
        result = self.network.tensors[step.name]
        rounding, overflow = Rounding(step.attributes["rounding"]), Overflow(step.attributes["overflow"])
        if rounding is Rounding.STOCHASTIC:
            raise Unsupported("stochastic rounding")
        places = self._by_channel(self.network.shift(step))
        if self.by_other and (places < 0).any():
            return False
        self._shift_left(np.maximum(-places, 0))
        right = np.maximum(places, 0)
        if right.max() > 62:
            raise Unsupported(f"a shift by {right.max()} places")
        form = result.format
        left, (low, high) = int(np.maximum(-places, 0).max()), form.limits(overflow)
        if not right.any() and low <= min(current.low, 0) << left and max(current.high, 0) << left <= high:
            return True  # every value stays what it is
        self.rounded, self.shift, self.rounding = True, right, rounding
        if overflow is Overflow.WRAP:
            self.limit = "WRAP_SIGNED" if form.signed else "WRAP_UNSIGNED"
            self.wrap_bits = form.word_length
        else:
            self.low, self.high = form.limits(overflow)
        return True

    def _clamp(self, step: Step, current: IntTensor) -> bool:
        if self.limit != "CLAMP" or self.single:
            return False
        low, high = step.attributes["low"], step.attributes["high"]
        self.rounded = True
        self.low, self.high = (min(max(end, low), high) for end in (self.low, self.high))
        return True

    def _rounding_terms(self) -> tuple[Correction, Ints, Ints]:
        """Correction, its mask, and the addend that make a right shift round as it should."""
        some = self.shift > 0
        half = np.where(some, np.int64(1) << np.maximum(self.shift - 1, 0), 0)
        nothing = np.zeros_like(half)
        less = np.where(some, half - 1, 0)
        match self.rounding:
            case Rounding.RND:
                return "NONE", nothing, half
            case Rounding.RND_MIN_INF:
                return "NONE", nothing, less
            case Rounding.TRN:
                return "NONE", nothing, nothing
            case Rounding.TRN_ZERO:  # toward +infinity where negative
                return "SIGN", np.where(some, 2 * half - 1, 0), nothing
            case Rounding.RND_INF:
                return "SIGN", np.where(some, -1, 0), half
            case Rounding.RND_ZERO:
                return "SIGN", np.where(some, 1, 0), less
            case _:  # RND_CONV: one half less than up, unless the integer part is odd
                return "ODD", np.where(some, 1, 0), less

    def bound(self) -> int:
        """No intermediate sum is larger in magnitude."""
        x = magnitude(self.source)
        if self.single:
            return max(x << self.dividend_left, self.divisor, magnitude(self.network.tensors[self.result]))
        if self.by_other:
            x *= magnitude(self.network.tensors[self.other or ""])
            return x + int(np.abs(self.addend).max()) + (1 << int(self.shift.max()))
        x = x << int(self.left.max()) if self.factor is None else x * int(np.abs(self.factor).max())
        if self.other is not None:
            x += magnitude(self.network.tensors[self.other]) << int(self.other_left.max())
        return x + int(np.abs(self.addend).max()) + (1 << int(self.shift.max()))

    def _fits_pairs(self, multiply: str) -> bool:
        """Whether an integer of 16 bits and one of the other tensor need factors of 16 bits alone."""
        most = max(int(self.left.max()), int(self.other_left.max()))
        return multiply in ("NONE", "SHORT") and most <= MOST_LEFT

    def _pairs(self, factor: Ints) -> Ints:
        """The factors of both, in the halves of 32 bits; ``factor`` is in the lower one already."""
        own = factor if self.factor is not None else np.int64(1) << self.left
        return own | (np.int64(1) << self.other_left + 16 if self.other is not None else 0)

    def _places(self, addend: Ints) -> int:
        """The shift, where ``(x + addend) >> shift``, limited, needs 16 bits alone; else -1.

        A sum beyond 16 bits counts as the largest that they hold: both are at or above the limit then.
        """
        if self.factor is not None or self.other is not None or self.left.any():
            return -1
        shift, most = int(self.shift[0]), RANGES["I16"][1]
        same = (self.shift == shift).all() and (addend == addend[0]).all()
        fits = shift < 16 and 0 <= addend[0] <= most and self.high <= most >> shift
        return shift if same and fits else -1

    def split(self) -> int:
        """Where sums beyond 32 bits may be split for this stage to cast them in 32 bits; 0: nowhere."""
        plain = (
            not self.single
            and self.factor is None
            and self.other is None
            and not self.left.any()
            and self.limit == "CLAMP"
        )
        if not plain or self._rounding_terms()[0] != "NONE" or not self.rounded:
            return 0
        # Bits below: no more than are shifted out, and fewer than 2**16 blocks of them stay within 32 bits.
        split = min(SPLIT, int(self.shift.min()))
        fits = (self.bound() >> split) + (1 << 17) <= RANGES["I32"][1]
        return split if split >= LEAST_SPLIT and fits and not wide(self.network.tensors[self.result]) else 0

    def built(self, buffers: Mapping[str | int, int], offset: int, split: int) -> Any:
        """For the extension; ``split`` is where the sums that come in are split, 0 if they are not."""
        work = self.bound() > RANGES["I32"][1]
        correction, mask, rounding = self._rounding_terms()
        addend = self.addend
        if correction == "NONE":
            addend, rounding = addend + rounding, np.zeros_like(rounding)
        multiply = "NONE"
        if self.by_other:
            multiply = "TENSOR"
        elif self.factor is not None:
            short = not work and within(self.source, "I16") and int(np.abs(self.factor).max()) < 1 << 15
            multiply = "SHORT" if short else "FULL"
        factor = np.zeros_like(addend) if self.factor is None else self.factor
        if multiply == "SHORT":
            factor = factor & 0xFFFF  # the upper half of the pair takes no part
        wide_out = wide(self.network.tensors[self.result])
        kind = "LOOKUP" if self.table is not None else "DIVIDE" if self.divisor else "LINEAR"
        spread = False
        if self.by_other and self.other is not None:
            spread = self.network.tensors[self.other].shape != self.network.tensors[self.result].shape
        wide_work = work or wide(self.source) or wide_out
        from_split = bool(split and wide(self.source) and self.split() == split)
        bounds = RANGES["I64" if wide_work and not from_split else "I32"]  # split sums are cast in 32 bits
        nothing = np.zeros_like(addend)
        in_pairs = kind == "LINEAR" and not wide_work and self._fits_pairs(multiply)
        return native.Stage(
            from_split=from_split,
            wide_in=wide(self.source),
            wide_work=wide_work,
            wide_out=wide_out,
            kind=native.Kind[kind],
            rounding=native.Rounding[self.rounding.value if kind == "DIVIDE" else "TRN"],
            first=self.first,
            divisor=max(self.divisor, 1),
            up=self.dividend_left,
            table=np.zeros(1, np.int64) if self.table is None else self.table,
            per_image=spread,
            multiply=native.Multiply[multiply if not wide_work or multiply != "SHORT" else "FULL"],
            correction=native.Correction[correction],
            limit=native.Limit[self.limit],
            wrap_bits=min(self.wrap_bits, 64),
            low=max(self.low, bounds[0]),
            high=min(self.high, bounds[1]),
            other=-1 if self.other is None else buffers[self.other],
            store=-1 if self.store is None else buffers[self.store],
            store_channel=offset,
            has_left=bool(self.left.any()),
            nothing=self.nothing,
            factor=factor,
            left=self.left,
            addend=addend,
            shift=self.shift,
            mask=mask,
            other_left=self.other_left,
            addend_rounding=rounding,
            addend_low=addend & ((1 << split) - 1) if from_split else nothing,
            addend_high=addend >> split if from_split else nothing,
            shift_high=self.shift - split if from_split else nothing,
            in_pairs=in_pairs,
            pairs=self._pairs(factor) if in_pairs else nothing,
            places=self._places(addend) if in_pairs and correction == "NONE" else -1,
        )
