"""Where a dump differs from the network, and which fault explains it exactly, if one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as with_fields
from itertools import combinations

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from radixpoint.data import ImageSet
from radixpoint.engines import make_engine, quantize_images
from radixpoint.explaining.dump import Matched
from radixpoint.explaining.faults import Planted, copied, faults
from radixpoint.ir.network import IntGraph, IntTensor, Step
from radixpoint.tables import Chart, Row, Tabular

Ints = NDArray[np.int64]
MOST_FAULTS = 3
"""Found one after the other."""
PAIRS = 1500
"""Of faults, tried at most where no single one explains a tensor."""
ENOUGH = 3
"""Pairs that explain the same."""


@dataclass(frozen=True)
class Difference:
    """A tensor that differs.

    Attributes:
        tensor, layer: which.
        place: (image, *index) of the first difference.
        expected, got: stored integers there.
        count, values: how many differ, of how many.
        largest: of the differences' magnitudes.
    """

    tensor: str
    layer: str
    place: tuple[int, ...]
    expected: int
    got: int
    count: int
    values: int
    largest: int


@dataclass(frozen=True)
class Cause:
    """Faults that explain a dump.

    Attributes:
        kinds: of the faults, in the order in which they were found.
        texts: what they are.
        whole: whether every value of the dump is explained, or only the first tensor that differs.
    """

    kinds: tuple[str, ...]
    texts: tuple[str, ...]
    whole: bool

    def and_then(self, kinds: tuple[str, ...], texts: tuple[str, ...], whole: bool) -> Cause:
        """This, and further faults."""
        return Cause((*self.kinds, *kinds), (*self.texts, *texts), whole)


@dataclass(frozen=True)
class Comparison(Tabular):
    """A dump against the network.

    Attributes:
        tensors: names of those that were compared, in execution order.
        equal: whether every value is.
        differences: tensors that differ, the first one in execution order first.
        causes: what explains all of it; if nothing does, what explains the first tensor that differs. Those
            of the fewest faults come first.
        tried: how many faults, and pairs of faults.
    """

    tensors: tuple[str, ...]
    equal: bool
    differences: tuple[Difference, ...]
    causes: tuple[Cause, ...]
    tried: int

    def summary(self) -> str:
        """It in a line."""
        if self.equal:
            return f"Comparison: all of {len(self.tensors)} tensors are equal"
        causes = (
            "; ".join(" and ".join(cause.texts) for cause in self.causes if cause.whole) or "no cause known"
        )
        return f"Comparison: {len(self.differences)} of {len(self.tensors)} tensors differ: {causes}"

    def rows(self) -> list[Row]:
        """A row for each tensor that differs."""
        return [asdict(difference) for difference in self.differences]

    def chart(self) -> Chart:
        """Shares of values that differ."""
        names = [difference.tensor for difference in self.differences]
        shares = [100 * difference.count / difference.values for difference in self.differences]
        return Chart(names, {"differ": shares}, ("tensor", "values that differ, %"))


def difference(network: IntGraph, matched: Matched, expected: Ints) -> Difference | None:
    """Where a tensor differs, or None."""
    unlike = matched.values != expected
    if not unlike.any():
        return None
    place = tuple(int(i) for i in np.argwhere(unlike)[0])
    return Difference(
        matched.tensor,
        network.tensors[matched.tensor].layer,
        place,
        int(expected[place]),
        int(matched.values[place]),
        int(unlike.sum()),
        unlike.size,
        int(np.abs(matched.values - expected).max()),
    )


Progress = Callable[[int, str], None]


def compare(
    network: IntGraph,
    dump: Sequence[Matched],
    stored: Ints,
    images: ImageSet | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare a dump, and look for what explains it.

    Args:
        network: as it should be.
        dump: from ``radixpoint.explaining.dump.matched``.
        stored: what was put in: stored integers (images, *shape).
        images: the images themselves: then other preprocessing is tried, too.
        progress: told how many faults were tried, and which one is.
    """
    return _Comparer(network, dump, stored, images, progress or (lambda done, what: None)).run()


class _Comparer:
    """One comparison."""

    def __init__(
        self,
        network: IntGraph,
        dump: Sequence[Matched],
        stored: Ints,
        images: ImageSet | None,
        progress: Progress,
    ) -> None:
        self.network, self.dump, self.stored, self.images = network, tuple(dump), stored, images
        self.progress, self.tried = progress, 0
        self.names = [dumped.tensor for dumped in self.dump]

    def run(self) -> Comparison:
        expected = self._run(self.network, self.stored)
        found = [difference(self.network, dumped, expected[dumped.tensor]) for dumped in self.dump]
        differences = tuple(dumped for dumped in found if dumped is not None)
        causes: list[Cause] = []
        if differences:
            others = list(self._put_in_otherwise(expected))
            causes = [*self._read_otherwise(expected), *(cause for cause, _ in others)]
            if not any(cause.whole for cause in causes):
                causes += self._computed_otherwise()
                for cause, stored in others:
                    other = self._with_input(stored)
                    causes += other._computed_otherwise(cause)
                    self.tried = other.tried
            complete = [cause for cause in causes if cause.whole]
            causes = sorted(complete or causes, key=lambda cause: len(cause.kinds))
        return Comparison(tuple(self.names), not differences, differences, tuple(causes), self.tried)

    def _run(self, network: IntGraph, stored: Ints) -> Mapping[str, Ints]:
        return make_engine(network).run(stored, self.names)

    def _explained(self, values: Mapping[str, Ints]) -> list[bool]:
        return [np.array_equal(dumped.values, values[dumped.tensor]) for dumped in self.dump]

    # -- the dump is right, and was read otherwise than it was meant

    def _read_otherwise(self, expected: Mapping[str, Ints]) -> Iterator[Cause]:
        unlike = [
            dumped for dumped in self.dump if not np.array_equal(dumped.values, expected[dumped.tensor])
        ]
        for kind, text, change in _READINGS:
            self._tell(text)
            read = [
                (change(dumped.values, self.network.tensors[dumped.tensor]), expected[dumped.tensor])
                for dumped in unlike
            ]
            if all(values is not None and np.array_equal(values, right) for values, right in read):
                yield Cause((kind,), (text,), True)

    # -- other images were put in

    def _with_input(self, stored: Ints) -> _Comparer:
        """The same comparison of what else was put in; the input in the dump says nothing then."""
        dump = [dumped for dumped in self.dump if dumped.tensor != self.network.input]
        other = _Comparer(self.network, dump, stored, None, self.progress)
        other.tried = self.tried
        return other

    def _put_in_otherwise(self, expected: Mapping[str, Ints]) -> Iterator[tuple[Cause, Ints]]:
        """Other inputs that explain the first tensor that differs, with the cause that they would be."""
        first = self._first(expected)
        for kind, text, stored in self._inputs():
            self._tell(text)
            if np.array_equal(stored, self.stored):
                continue
            values = {**self._run(self.network, stored), **self._right_input()}
            explained = self._explained(values)
            if explained[first]:
                yield Cause((kind,), (text,), all(explained)), np.ascontiguousarray(stored)

    def _right_input(self) -> dict[str, Ints]:
        """The input, if the dump has it as it should be: it was right, and then was read otherwise."""
        name = self.network.input
        own = [dumped.values for dumped in self.dump if dumped.tensor == name]
        return {name: self.stored} if own and np.array_equal(own[0], self.stored) else {}

    def _inputs(self) -> Iterator[tuple[str, str, Ints]]:
        stored, form = self.stored, self.network.tensors[self.network.input].format
        if stored.ndim == 4:
            yield "image", "the image's channels are in reverse order (RGB for BGR)", stored[:, ::-1]
            yield "image", "the image is mirrored", stored[..., ::-1]
            yield "image", "the image is upside down", stored[:, :, ::-1]
            if stored.shape[2] == stored.shape[3]:
                yield "image", "rows and columns of the image are exchanged", stored.swapaxes(2, 3)
        if len(stored) > 1:
            yield "image order", "the images are in reverse order", stored[::-1]
            yield "image order", "each image is that before it", np.roll(stored, 1, 0)
            yield "image order", "each image is that behind it", np.roll(stored, -1, 0)
        for places in (1, -1):
            moved = np.clip(np.floor(np.ldexp(stored.astype(float), places) + 0.5), form.min, form.max)
            yield "image", f"the image is {2.0**places:g} times as large", moved.astype(np.int64)
        if self.images is None or self.images.preprocessing is None:
            return
        prepared = self.images.preprocessing
        plain = tuple(0.0 for _ in prepared.mean)
        unit = tuple(1.0 for _ in prepared.std)
        others = (
            ("the mean is not subtracted", {"mean": plain}),
            ("the image is not divided by the deviation", {"std": unit}),
            ("neither mean nor deviation are used", {"mean": plain, "std": unit}),
            ("the mean's channels are in reverse order", {"mean": prepared.mean[::-1]}),
            ("the deviation's channels are in reverse order", {"std": prepared.std[::-1]}),
            (
                "mean's and deviation's channels are in reverse order",
                {"mean": prepared.mean[::-1], "std": prepared.std[::-1]},
            ),
            ("pixels are divided by 256, not by 255", {"rescale": prepared.rescale * 255 / 256}),
            ("pixels are not scaled", {"rescale": 1.0}),
        )
        exact = np.ldexp(self.images.inputs(0, len(self.images)).astype(float), form.fraction_lengths[0])
        cut = np.clip(np.floor(exact), form.min, form.max).astype(np.int64)
        yield "preprocessing", "the image is truncated, not rounded", cut
        for text, fields in others:
            changed = replace(prepared, **fields)
            inputs = changed.normalize(np.asarray(self.images.pixels[0 : len(self.images)]))
            yield "preprocessing", text, quantize_images(self.network, inputs)

    # -- the arithmetic is another

    def _first(self, values: Mapping[str, Ints]) -> int:
        """The first tensor of the dump that these values do not explain."""
        explained = self._explained(values)
        return explained.index(False)

    def _computed_otherwise(self, before: Cause | None = None) -> list[Cause]:
        """Faults one after the other: each explains the first tensor that is not explained yet.

        ``before``: what was found already.
        """
        causes: list[Cause] = []
        states: list[tuple[Planted, ...]] = [()]
        for _ in range(MOST_FAULTS):
            following: list[tuple[Planted, ...]] = []
            for planted in states:
                network = self.network if not planted else copied(self.network, planted)
                if network is None:
                    continue
                first = self._first(self._run(network, self.stored))
                for more in self._steps_on(planted, first):
                    whole = all(self._explained(self._made(more)))
                    causes.append(_cause(more, whole, before))
                    if not whole:
                        following.append(more)
            if any(cause.whole for cause in causes) or not following:
                break
            states = following[:8]
        complete = [cause for cause in causes if cause.whole]
        return complete or causes[-8:]

    def _made(self, planted: Sequence[Planted]) -> Mapping[str, Ints]:
        network = copied(self.network, planted)
        assert network is not None  # it was made before
        return self._run(network, self.stored)

    def _steps_on(self, planted: tuple[Planted, ...], first: int) -> list[tuple[Planted, ...]]:
        """Planted faults and one more, or two more, that explain the tensor; those everywhere come first."""
        segment = self._segment(first)
        everywhere = [Planted(fault, None, None) for fault in faults()]
        local = [
            Planted(fault, step.name, self.network.tensors[step.name].layer)
            for fault in faults()
            for step in segment
            if fault.edit(self.network, step) is not None
        ]
        exact = [*everywhere, *local]
        for single in (exact, [with_fields(added, wraps=True) for added in exact]):
            found = [(*planted, added) for added in single if self._explains((*planted, added), first)]
            if found:
                return found
        pairs = [
            (a, b) for a, b in combinations(local, 2) if a.step != b.step or a.fault.kind != b.fault.kind
        ]
        for a, b in pairs[:PAIRS]:
            if len(found) < ENOUGH and self._explains((*planted, a, b), first):
                found.append((*planted, a, b))
        return found

    def _explains(self, planted: Sequence[Planted], first: int) -> bool:
        """Whether the tensor, and all before it, are explained."""
        self._tell(planted[-1].text)
        network = copied(self.network, planted)
        if network is None:
            return False
        names = self.names[: first + 1]
        values = make_engine(network).run(self.stored, names)
        return all(
            np.array_equal(dumped.values, values[dumped.tensor])
            for dumped in reversed(self.dump[: first + 1])
        )

    def _segment(self, first: int) -> list[Step]:
        """Steps between the tensors of the dump that are right and the first that is not."""
        right = {self.network.input, *self.names[:first]}
        makers = {step.name: step for step in self.network.steps}
        wanted, found = [self.names[first]], set[str]()
        while wanted:
            name = wanted.pop()
            if name in found or name in right or name not in makers:
                continue
            found.add(name)
            wanted += makers[name].inputs
        return [step for step in self.network.steps if step.name in found]

    def _tell(self, what: str) -> None:
        self.tried += 1
        self.progress(self.tried, what)


def _cause(planted: Sequence[Planted], whole: bool, before: Cause | None) -> Cause:
    kinds, texts = tuple(cause.fault.kind for cause in planted), tuple(cause.text for cause in planted)
    return Cause(kinds, texts, whole) if before is None else before.and_then(kinds, texts, whole)


# ------------------------------------------------------------------------------------------- readings

_Reading = Callable[[Ints, IntTensor], Ints | None]


def _swapped(size: int) -> _Reading:
    """Bytes in the other order, of words of so many bytes; a word of one byte has none."""

    def read(values: Ints, tensor: IntTensor) -> Ints | None:
        if tensor.format.word_length <= 8:
            return values
        bits = 8 * size
        low, high = (
            (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if tensor.format.signed else (0, (1 << bits) - 1)
        )
        if values.min() < low or values.max() > high:
            return None
        words = values.astype(f"<i{size}" if tensor.format.signed else f"<u{size}")
        return words.byteswap().astype(np.int64)

    return read


def _as_unsigned(values: Ints, tensor: IntTensor) -> Ints | None:
    """Negative numbers that were dumped without their sign."""
    if not tensor.format.signed or values.min() < 0:
        return None
    sign = np.int64(1) << (tensor.format.word_length - 1)
    return (
        (values & (2 * sign - 1) ^ sign) - sign if (values >> tensor.format.word_length == 0).all() else None
    )


def _channels_last(values: Ints, tensor: IntTensor) -> Ints | None:
    if len(tensor.shape) != 3:
        return None
    channels, height, width = tensor.shape
    return np.moveaxis(values.reshape(len(values), height, width, channels), -1, 1)


def _rows_and_columns(values: Ints, tensor: IntTensor) -> Ints | None:
    if len(tensor.shape) != 3:
        return None
    channels, height, width = tensor.shape
    return values.reshape(len(values), channels, width, height).swapaxes(2, 3)


def _channels_outside(values: Ints, tensor: IntTensor) -> Ints | None:
    """Channels before images."""
    shape = (tensor.shape[0], len(values), *tensor.shape[1:])
    return values.reshape(shape).swapaxes(0, 1) if len(values) > 1 else None


def _blocked(size: int) -> _Reading:
    """Channels in blocks, the channel within its block last, as accelerators keep them."""

    def read(values: Ints, tensor: IntTensor) -> Ints | None:
        if len(tensor.shape) != 3 or tensor.shape[0] % size:
            return None
        channels, height, width = tensor.shape
        cut = values.reshape(len(values), channels // size, height, width, size)
        return np.moveaxis(cut, -1, 2).reshape(values.shape)

    return read


def _left_aligned(size: int) -> _Reading:
    """Words whose highest bits hold the integer, as fractions of one are kept."""

    def read(values: Ints, tensor: IntTensor) -> Ints | None:
        unused = size - tensor.format.word_length
        return None if unused <= 0 or np.any(values & ((1 << unused) - 1)) else values >> unused

    return read


def _offset_binary(values: Ints, tensor: IntTensor) -> Ints | None:
    """Words that count from the lowest number of the format."""
    return values + tensor.format.min if tensor.format.signed else None


def _negative(values: Ints, tensor: IntTensor) -> Ints:
    return -values


_READINGS: tuple[tuple[str, str, _Reading], ...] = (
    ("layout", "the dump has channels last (NHWC)", _channels_last),
    ("layout", "the dump has rows and columns exchanged", _rows_and_columns),
    ("layout", "the dump has channels before images (CNHW)", _channels_outside),
    *(
        (
            "byte order",
            f"the bytes of the dump's words, of {8 * size} bits, are in the other order",
            _swapped(size),
        )
        for size in (2, 4, 8)
    ),
    *(
        ("layout", f"the dump has channels in blocks of {size} (NCHW{size}c)", _blocked(size))
        for size in (2, 4, 8, 16, 32, 64)
    ),
    *(
        (
            "shift",
            f"the dump's integers stand in the highest bits of words of {size} bits",
            _left_aligned(size),
        )
        for size in (8, 16, 32)
    ),
    ("sign", "the dump's words count from the lowest number (offset binary)", _offset_binary),
    ("sign", "the dump's words were read without their sign", _as_unsigned),
    ("sign", "the dump's numbers have the opposite sign", _negative),
)
"""Ways to read a dump otherwise."""
