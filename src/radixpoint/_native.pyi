"""The extension module: programs of integer operations on channels-last tensors. See _native/engine.hpp."""

from enum import Enum

import numpy as np
from numpy.typing import NDArray

class Storage(Enum):
    U8 = 0
    I16 = 1
    I32 = 2
    I64 = 3

class Multiply(Enum):
    NONE = 0
    FULL = 1
    SHORT = 2
    TENSOR = 3

class Kind(Enum):
    LINEAR = 0
    LOOKUP = 1
    DIVIDE = 2

class Rounding(Enum):
    TRN = 0
    TRN_ZERO = 1
    RND = 2
    RND_MIN_INF = 3
    RND_INF = 4
    RND_ZERO = 5
    RND_CONV = 6

class Correction(Enum):
    NONE = 0
    SIGN = 1
    ODD = 2

class Limit(Enum):
    CLAMP = 0
    WRAP_SIGNED = 1
    WRAP_UNSIGNED = 2

class Pooling(Enum):
    NONE = 0
    MAX = 1
    SUM = 2

def bytes_of(storage: Storage, /) -> int: ...

class InstructionSet:
    @property
    def name(self) -> str: ...
    @property
    def supported(self) -> bool: ...
    @property
    def byte_dot(self) -> bool: ...
    @property
    def saturates(self) -> bool: ...
    @property
    def winograd(self) -> bool: ...
    @property
    def lanes(self) -> int: ...

def instruction_sets() -> list[InstructionSet]: ...
def peak(name: str, bytes: bool, rounds: int, /) -> int: ...

class Window:
    height: int
    width: int
    channels: int
    out_width: int
    kernel_x: int
    stride_x: int
    left: int
    def __init__(
        self,
        *,
        height: int,
        width: int,
        channels: int,
        out_height: int,
        out_width: int,
        kernel_y: int,
        kernel_x: int,
        stride_y: int,
        stride_x: int,
        top: int,
        left: int,
        dilation_y: int,
        dilation_x: int,
    ) -> None: ...

class Stage:
    def __init__(
        self,
        *,
        kind: Kind,
        rounding: Rounding,
        first: int,
        divisor: int,
        up: int,
        table: NDArray[np.int64],
        per_image: bool,
        from_split: bool,
        wide_in: bool,
        wide_work: bool,
        wide_out: bool,
        multiply: Multiply,
        correction: Correction,
        limit: Limit,
        wrap_bits: int,
        low: int,
        high: int,
        other: int,
        store: int,
        store_channel: int,
        has_left: bool,
        nothing: bool,
        factor: NDArray[np.int64],
        left: NDArray[np.int64],
        addend: NDArray[np.int64],
        shift: NDArray[np.int64],
        mask: NDArray[np.int64],
        other_left: NDArray[np.int64],
        addend_rounding: NDArray[np.int64],
        addend_low: NDArray[np.int64],
        addend_high: NDArray[np.int64],
        shift_high: NDArray[np.int64],
        in_pairs: bool,
        pairs: NDArray[np.int64],
        places: int,
    ) -> None: ...

class Program:
    def __init__(self, name: str, threads: int, /) -> None: ...
    def add_buffer(self, *, pixels: int, channels: int, storage: Storage, zero: int, offset: int) -> int: ...
    def add_conv(
        self,
        *,
        source: int,
        padded: int,
        window: Window,
        weights: NDArray[np.int16],
        groups: int,
        bytes: bool,
        wide: bool,
        split: int,
        low: int,
        high: int,
    ) -> None: ...
    def add_winograd(self, *, weights: NDArray[np.int16], always: bool) -> None: ...
    def add_depthwise(
        self, *, source: int, window: Window, weights: NDArray[np.int16], wide: bool
    ) -> None: ...
    def add_pool(self, *, source: int, window: Window, pooling: Pooling, wide: bool) -> None: ...
    def add_move(
        self, *, source: int, target: int, starts: NDArray[np.int64], lengths: NDArray[np.int64], fill: int
    ) -> None: ...
    def add_stage(self, stage: Stage) -> None: ...
    def operations(self) -> int: ...
    def reserve(self, batch: int, /) -> None: ...
    def run(self, begin: int, end: int, /) -> None: ...
    def write(self, buffer: int, values: NDArray[np.int64], /) -> None: ...
    def read(self, buffer: int, values: NDArray[np.int64], /) -> None: ...
