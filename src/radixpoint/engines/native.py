"""The native engine: an IntGraph as a program of fused integer kernels.

A plan walks the steps. A convolution, a pooling or a stored tensor *produces* integers; the casts, scales,
offsets, additions and clamps behind it become *stages* through which a tile passes while it is in the
registers and the first-level cache, so that an activation is written once, in as few bytes as its
proven range needs. Steps that the kernels do not know run in the BLAS engine's exact arithmetic, between two
stretches of the program; :attr:`NativeEngine.notes` names them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.formats import Overflow, Rounding
from radixpoint.engines.blas import exact_step
from radixpoint.engines.boundary import check_run, check_threads
from radixpoint.errors import EngineError
from radixpoint.ir.arena import arena_layout
from radixpoint.ir.network import IntGraph, IntTensor, Step, verify

try:
    from radixpoint import _native
except ImportError:  # installed without a compiler
    _native = None  # type: ignore[assignment]

Ints = NDArray[np.int64]

ISA_VARIABLE: Final = "RADIXPOINT_ISA"
"""Environment variable that forces an instruction set."""
U8, I16, I32, I64 = range(4)
BYTES = (1, 2, 4, 8)
RANGES = ((-128, 255), (-(1 << 15), (1 << 15) - 1), (-(1 << 31), (1 << 31) - 1), (-(1 << 63), (1 << 63) - 1))
NONE, FULL, SHORT = range(3)
CORRECTION_NONE, CORRECTION_SIGN, CORRECTION_ODD = range(3)
CLAMP, WRAP_SIGNED, WRAP_UNSIGNED = range(3)
POOL_NONE, POOL_MAX, POOL_SUM = range(3)
PRODUCERS = ("conv", "dense", "max_pool", "sum_pool")
ELEMENTWISE = ("cast", "scale", "offset", "add", "clamp")
FEW_CHANNELS = 16
"""Below, a convolution reads whole rows of its window at a time."""
ARENA = 48 << 20
"""Bytes of activations in hand at a time, about: they then stay near the caches."""
MOST_IMAGES = 64
SPLIT = 16
"""Where sums beyond 32 bits are split in two planes, unless the stage behind asks for less."""
LEAST_SPLIT = 8
MOST_PRODUCTS = 1 << 15
"""So many products of 16 bits, in as many blocks, stay within what split sums hold."""
PAD = 64
"""Zeros behind each parameter of a stage: kernels read whole vectors."""


def instruction_sets() -> Mapping[str, bool]:
    """Those compiled in, best first, and whether this machine has each; empty without the extension."""
    if _native is None:
        return {}
    return {str(row["name"]): bool(row["supported"]) for row in _native.instruction_sets()}


def chosen_instruction_set() -> str:
    """The one that runs: the best, or what the environment variable RADIXPOINT_ISA names.

    Raises:
        EngineError: there is no native engine, or it cannot run what the variable names.
    """
    known = instruction_sets()
    if not known:
        raise EngineError(
            "the native engine is not in this installation (installed without a C++ compiler that works): "
            "install one and reinstall radixpoint, or use the blas engine"
        )
    usable = [name for name, supported in known.items() if supported]
    forced = os.environ.get(ISA_VARIABLE)
    if not forced:
        return usable[0]
    if forced not in usable:
        raise EngineError(f"{ISA_VARIABLE}={forced}: expected one of {', '.join(usable)} on this machine")
    return forced


class _Unsupported(Exception):
    """The kernels cannot compute this; its text says why."""


def _within(tensor: IntTensor, kind: int) -> bool:
    low, high = RANGES[kind]
    return tensor.low >= low and tensor.high <= high


def _wide(tensor: IntTensor) -> bool:
    return not _within(tensor, I32)


def _magnitude(tensor: IntTensor) -> int:
    return max(-tensor.low, tensor.high)


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height, width of a tensor."""
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (shape[0], 1, 1)


@dataclass
class _Stage:
    """What a stage does to the tensor it takes; see program.hpp. Fields are one value a channel."""

    graph: IntGraph
    source: IntTensor
    result: str
    nothing: bool = True
    channels: int = 0
    factor: Ints | None = None
    left: Ints = field(init=False)
    addend: Ints = field(init=False)
    other: str | None = None
    other_left: Ints = field(init=False)
    rounded: bool = False
    shift: Ints = field(init=False)
    rounding: Rounding = Rounding.TRN
    limit: int = CLAMP
    wrap_bits: int = 64
    low: int = RANGES[I64][0]
    high: int = RANGES[I64][1]
    store: str | None = None

    def __post_init__(self) -> None:
        self.channels = self.source.shape[0]
        self.left, self.addend, self.other_left, self.shift = (
            np.zeros(self.channels, np.int64) for _ in range(4)
        )

    def with_step(self, step: Step) -> _Stage | None:
        """This stage and then ``step``; None if its place has passed or 64 bits would not hold the sums.

        Raises:
            _Unsupported: no stage can do it.
        """
        longer = copy(self)
        current = self.graph.tensors[self.result]
        if not getattr(longer, f"_{step.op}")(step, current):
            return None
        longer.result, longer.nothing = step.name, False
        return longer if longer.bound() <= RANGES[I64][1] else None

    def _per_channel(self, values: Ints) -> Ints:
        if values.size not in (1, self.channels) or values.shape[0] != values.size:
            raise _Unsupported("a parameter that differs within a channel")
        return np.broadcast_to(values.reshape(-1), (self.channels,)).copy()

    def _shifted(self, values: Ints, places: Ints) -> Ints:
        most = int(np.abs(values).max()).bit_length() + int(places.max())
        if most > 62:
            raise _Unsupported(f"a parameter of {most} bits")
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

    def _scale(self, step: Step, current: IntTensor) -> bool:
        if self.factor is not None or self.left.any() or self.addend.any() or self.other or self.rounded:
            return False
        self.factor = self._per_channel(self.graph.arrays(step)["factor"])
        return True

    def _offset(self, step: Step, current: IntTensor) -> bool:
        if self.rounded:
            return False
        self._shift_left(self._by_channel(self.graph.align(step, 0)))
        value = self._per_channel(self.graph.arrays(step)["value"])
        self.addend = self.addend + self._shifted(value, self._by_channel(self.graph.align(step, "value")))
        return True

    def _add(self, step: Step, current: IntTensor) -> bool:
        if self.rounded or self.other is not None:
            return False
        own = step.inputs.index(self.result)
        self._shift_left(self._by_channel(self.graph.align(step, own)))
        self.other = step.inputs[1 - own]
        self.other_left = self._by_channel(self.graph.align(step, 1 - own))
        return True

    def _cast(self, step: Step, current: IntTensor) -> bool:
        if self.rounded:
            return False
        result = self.graph.tensors[step.name]
        rounding, overflow = Rounding(step.attributes["rounding"]), Overflow(step.attributes["overflow"])
        if rounding is Rounding.STOCHASTIC:
            raise _Unsupported("stochastic rounding")
        places = self._by_channel(self.graph.shift(step))
        self._shift_left(np.maximum(-places, 0))
        right = np.maximum(places, 0)
        if right.max() > 62:
            raise _Unsupported(f"a shift by {right.max()} places")
        form = result.format
        largest = _magnitude(current) << int(np.maximum(-places, 0).max())
        harmless = not right.any() and largest <= form.max - (overflow is Overflow.SAT_SYM)
        if harmless:
            return True
        self.rounded, self.shift, self.rounding = True, right, rounding
        if overflow is Overflow.WRAP:
            self.limit = WRAP_SIGNED if form.signed else WRAP_UNSIGNED
            self.wrap_bits = form.word_length
        else:
            self.low, self.high = form.limits(overflow)
        return True

    def _clamp(self, step: Step, current: IntTensor) -> bool:
        if self.limit != CLAMP:
            return False
        low, high = step.attributes["low"], step.attributes["high"]
        self.rounded = True
        self.low, self.high = (min(max(end, low), high) for end in (self.low, self.high))
        return True

    def _rounding_terms(self) -> tuple[int, Ints, Ints]:
        """Correction, its mask, and the addend that make a right shift round as it should."""
        some = self.shift > 0
        half = np.where(some, np.int64(1) << np.maximum(self.shift - 1, 0), 0)
        nothing = np.zeros_like(half)
        less = np.where(some, half - 1, 0)
        match self.rounding:
            case Rounding.RND:
                return CORRECTION_NONE, nothing, half
            case Rounding.RND_MIN_INF:
                return CORRECTION_NONE, nothing, less
            case Rounding.TRN:
                return CORRECTION_NONE, nothing, nothing
            case Rounding.TRN_ZERO:  # toward +infinity where negative
                return CORRECTION_SIGN, np.where(some, 2 * half - 1, 0), nothing
            case Rounding.RND_INF:
                return CORRECTION_SIGN, np.where(some, -1, 0), half
            case Rounding.RND_ZERO:
                return CORRECTION_SIGN, np.where(some, 1, 0), less
            case _:  # RND_CONV: one half less than up, unless the integer part is odd
                return CORRECTION_ODD, np.where(some, 1, 0), less

    def bound(self) -> int:
        """No intermediate sum is larger in magnitude."""
        x = _magnitude(self.source)
        x = x << int(self.left.max()) if self.factor is None else x * int(np.abs(self.factor).max())
        if self.other is not None:
            x += _magnitude(self.graph.tensors[self.other]) << int(self.other_left.max())
        return x + int(np.abs(self.addend).max()) + (1 << int(self.shift.max()))

    def split(self) -> int:
        """Where sums beyond 32 bits may be split for this stage to cast them in 32 bits; 0: nowhere."""
        plain = self.factor is None and self.other is None and not self.left.any() and self.limit == CLAMP
        if not plain or self._rounding_terms()[0] != CORRECTION_NONE or not self.rounded:
            return 0
        # Bits below: no more than are shifted out, and fewer than 2**16 blocks of them stay within 32 bits.
        split = min(SPLIT, int(self.shift.min()))
        fits = (self.bound() >> split) + (1 << 17) <= RANGES[I32][1]
        return split if split >= LEAST_SPLIT and fits and not _wide(self.graph.tensors[self.result]) else 0

    def description(self, buffers: Mapping[str | int, int], offset: int, split: int) -> dict[str, Any]:
        """For the extension; ``split`` is where the sums that come in are split, 0 if they are not."""
        work = self.bound() > RANGES[I32][1]
        correction, mask, rounding = self._rounding_terms()
        addend = self.addend
        if correction == CORRECTION_NONE:
            addend, rounding = addend + rounding, np.zeros_like(rounding)
        multiply = NONE
        if self.factor is not None:
            short = not work and _within(self.source, I16) and int(np.abs(self.factor).max()) < 1 << 15
            multiply = SHORT if short else FULL
        factor = np.zeros_like(addend) if self.factor is None else self.factor
        if multiply == SHORT:
            factor = factor & 0xFFFF  # the upper half of the pair takes no part
        wide_out = _wide(self.graph.tensors[self.result])
        wide_work = work or _wide(self.source) or wide_out
        bounds = RANGES[I64 if wide_work else I32]

        def lanes(values: Ints) -> Ints:
            return np.concatenate([np.asarray(values, np.int64), np.zeros(PAD, np.int64)])

        from_split = bool(split and _wide(self.source) and self.split() == split)
        planes = {}
        if from_split:
            planes = {
                "addend_low": lanes(addend & ((1 << split) - 1)),
                "addend_high": lanes(addend >> split),
                "shift_high": lanes(self.shift - split),
            }
        return planes | {
            "from_split": from_split,
            "wide_in": _wide(self.source),
            "wide_work": wide_work,
            "wide_out": wide_out,
            "multiply": multiply if not wide_work or multiply == NONE else FULL,
            "correction": correction,
            "limit": self.limit,
            "wrap_bits": min(self.wrap_bits, 64),
            "low": max(self.low, bounds[0]),
            "high": min(self.high, bounds[1]),
            "other": -1 if self.other is None else buffers[self.other],
            "store": -1 if self.store is None else buffers[self.store],
            "store_channel": offset,
            "has_left": bool(self.left.any()),
            "nothing": self.nothing,
            "factor": lanes(factor),
            "left": lanes(self.left),
            "addend": lanes(addend),
            "shift": lanes(self.shift),
            "mask": lanes(mask),
            "other_left": lanes(self.other_left),
            "addend_rounding": lanes(rounding),
        }


@dataclass
class _Operation:
    """A producer and its stages, or a step for the exact fallback."""

    kind: str  # conv | depthwise | pool | flatten | concat | fallback
    step: Step | None
    source: str
    stages: list[_Stage] = field(default_factory=list)
    offset: int = 0  # first channel of the target, for concat
    target: str = ""
    reason: str = ""

    def reads(self) -> set[str]:
        if self.kind == "fallback" and self.step is not None:
            return set(self.step.inputs)
        return {self.source} | {s.other for s in self.stages if s.other is not None}

    def writes(self) -> set[str]:
        own = {self.target} if self.target else set()
        return own | {s.store for s in self.stages if s.store is not None}


class _Planner:
    """Steps -> operations."""

    def __init__(self, graph: IntGraph, keep: set[str], byte_dot: bool) -> None:
        self.graph, self.keep, self.byte_dot = graph, keep, byte_dot
        self.done: set[str] = set()  # steps that have a place
        self.stored: set[str] = {graph.input}
        self.operations: list[_Operation] = []
        self.storage = {name: self._storage(name) for name in graph.tensors}

    def plan(self) -> list[_Operation]:
        for step in self.graph.steps:
            if step.name not in self.done:
                self._place(step)
        return self.operations

    # -- how tensors lie in memory

    def _operand_of(self, name: str) -> list[Step]:
        return [s for s in self.graph.readers[name] if s.family == "product" and not self._is_depthwise(s)]

    def _is_depthwise(self, step: Step) -> bool:
        if step.op != "conv":
            return False
        weight = self.graph.arrays(step)["weight"]
        return bool(step.attributes["groups"] == len(weight) > 1 and weight.shape[1] == 1)

    def _byte_weights(self, step: Step) -> bool:
        weight = self.graph.arrays(step)["weight"]
        # 2**16 products of an 8-bit value shifted by 128 stay within 32 bits.
        return bool(weight.min() >= -128 and weight.max() <= 127 and weight[0].size <= 1 << 16)

    def _storage(self, name: str) -> tuple[int, int]:
        """Kind and zero."""
        tensor, readers = self.graph.tensors[name], self._operand_of(name)
        narrow = self.byte_dot and all(self._byte_weights(s) for s in readers)
        if narrow or not readers:
            if tensor.low >= 0 and tensor.high <= 255:
                return U8, 0
            if tensor.low >= -128 and tensor.high <= 127:
                return U8, 128
        return next(kind for kind in (I16, I32, I64) if _within(tensor, kind)), 0

    # -- operations

    def _place(self, step: Step) -> None:
        try:
            operation = self._producer(step)
        except _Unsupported as why:
            operation = _Operation("fallback", step, step.inputs[0], target=step.name, reason=str(why))
        self.operations.append(operation)
        if operation.kind in ("fallback", "flatten", "concat"):
            self.done.add(step.name)
            self.stored.add(step.name)

    def _producer(self, step: Step) -> _Operation:
        for name in step.inputs:
            assert name in self.stored, f"{name} is read by {step.name}, yet not stored"
        source = step.inputs[0]
        if step.op == "flatten":
            return _Operation("flatten", step, source, target=step.name)
        if step.op == "concat":
            return self._concat(step)
        if step.op in ELEMENTWISE:
            operation = _Operation("pool", None, source)
            operation.stages = self._chain(source, step)
            return operation
        if step.op not in PRODUCERS:
            raise _Unsupported(f"{step.op} has no kernel")
        kind = "pool"
        if step.family == "product":
            kind = "depthwise" if self._is_depthwise(step) else "conv"
            weight = self.graph.arrays(step)["weight"]
            if weight.min() < RANGES[I16][0] or weight.max() > RANGES[I16][1]:
                raise _Unsupported("weights beyond 16 bits")
            if kind == "conv" and self.storage[source][0] not in (U8, I16):
                raise _Unsupported("activations beyond 16 bits")
            if kind == "conv" and _wide(self.graph.tensors[step.name]) and weight[0].size > MOST_PRODUCTS:
                raise _Unsupported(f"more than {MOST_PRODUCTS} products in a sum beyond 32 bits")
        operation = _Operation(kind, step, source)
        operation.stages = self._chain(step.name, None)
        self.done.add(step.name)
        return operation

    def _concat(self, step: Step) -> _Operation:
        """All but the last input as operations of their own."""
        offset = 0
        for position, name in enumerate(step.inputs):
            stage = _Stage(self.graph, self.graph.tensors[name], name)
            stage.store = step.name
            operation = _Operation("concat", None, name, [stage], offset, step.name)
            offset += self.graph.tensors[name].shape[0]
            if position == len(step.inputs) - 1:
                return operation
            self.operations.append(operation)
        raise AssertionError("a concat without inputs")

    def _read_elsewhere(self, name: str, step: Step | None) -> bool:
        """Whether ``name`` has to be written although ``step`` goes on with it in hand."""
        if name in self.stored:
            return False
        if step is None or name in self.keep:
            return True
        return any(reader is not step and reader.name not in self.done for reader in self.graph.readers[name])

    def _next(self, name: str) -> Step | None:
        """A step that can go on with ``name`` while it is in hand."""
        for step in self.graph.readers[name]:
            if step.name in self.done or step.op not in ELEMENTWISE:
                continue
            others = [other for other in step.inputs if other != name]
            if step.op != "add" or (others and others[0] in self.stored):
                return step
        return None

    def _chain(self, start: str, first: Step | None) -> list[_Stage]:
        """Stages that take tensor ``start`` as far as it goes; ``first`` has to be among them."""
        stages: list[_Stage] = []
        stage = self._fresh(start)
        step = first or self._next(start)
        while True:
            longer, joined = None, False
            if step is not None:
                written = self._read_elsewhere(stage.result, step)
                try:
                    longer, joined = self._extended(self._fresh(stage.result) if written else stage, step)
                except _Unsupported:
                    if step is first:
                        raise
                    step = None
                joined = joined and not written
            if self._read_elsewhere(stage.result, step):
                stage.store = stage.result
                self.stored.add(stage.result)
            if step is None or longer is None:
                return [*stages, stage]
            if not joined and (stage.store is not None or not stage.nothing):
                stages.append(stage)
            stage = longer
            self.done.add(step.name)
            step = self._next(stage.result)

    def _fresh(self, name: str) -> _Stage:
        return _Stage(self.graph, self.graph.tensors[name], name)

    def _extended(self, stage: _Stage, step: Step) -> tuple[_Stage, bool]:
        """``stage`` with ``step`` in it; or, where its place there has passed, a fresh one, and False."""
        if step.op == "add" and len(set(step.inputs)) == 1:
            raise _Unsupported("a tensor added to itself")
        longer = stage.with_step(step)
        if longer is not None:
            return longer, True
        longer = self._fresh(stage.result).with_step(step)
        if longer is None:
            raise _Unsupported("sums beyond 64 bits")
        return longer, False


@dataclass(frozen=True)
class _Plan:
    """A program for one set of tensors to keep."""

    program: Any
    buffers: Mapping[str | int, int]
    operations: list[_Operation]
    ends: list[int]  # operations of the program up to and with each of ours
    image_bytes: int


class NativeEngine:
    """Runs an IntGraph with the native kernels; equal to ``ReferenceEngine`` on every tensor.

    Args:
        graph: a verified IntGraph.
        threads: how many; 0 takes all cores. Results do not depend on it.
        instruction_set: default: ``chosen_instruction_set``.

    Attributes:
        notes: one line for each step that runs in the exact fallback, and why.

    Raises:
        EngineError: the native engine is not installed or cannot run what was asked for.
    """

    def __init__(self, graph: IntGraph, threads: int = 0, instruction_set: str | None = None) -> None:
        verify(graph)
        self.graph = graph
        self.threads = check_threads(threads) or os.cpu_count() or 1
        self.instruction_set = instruction_set or chosen_instruction_set()
        rows = {str(row["name"]): row for row in _native.instruction_sets()}
        if not rows.get(self.instruction_set, {}).get("supported"):
            raise EngineError(
                f"instruction set {self.instruction_set!r}: expected one of "
                f"{', '.join(name for name, usable in instruction_sets().items() if usable)} on this machine"
            )
        self._byte_dot = bool(rows[self.instruction_set]["byte_dot"])
        self._lock = Lock()  # one arena: calls from several threads take turns
        self._process = os.getpid()
        self._plans: dict[frozenset[str], _Plan] = {}
        self._exact: dict[str, Callable[[list[Ints]], Ints]] = {}

    @property
    def notes(self) -> list[str]:
        return [
            f"{o.target}: exact fallback ({o.reason})"
            for o in self._plan(frozenset({self.graph.output})).operations
            if o.kind == "fallback"
        ]

    def run(self, images: Ints, keep: Collection[str] | None = None) -> dict[str, Ints]:
        """See ``radixpoint.engines.Engine``."""
        images, wanted = check_run(self.graph, images, keep)
        if self._process != os.getpid():  # a fork: whoever held the lock has no thread here
            self._lock, self._process = Lock(), os.getpid()
        with self._lock:
            return self._run(images, frozenset(wanted))

    def _run(self, images: Ints, wanted: frozenset[str]) -> dict[str, Ints]:
        plan = self._plan(wanted)
        images = np.ascontiguousarray(images, np.int64)
        results = {
            name: np.empty((len(images), *self.graph.tensors[name].shape), np.int64) for name in wanted
        }
        size = max(1, min(MOST_IMAGES, ARENA // plan.image_bytes) // self.threads) * self.threads
        for start in range(0, len(images), size):
            chunk = images[start : start + size]
            self._run_chunk(plan, chunk)
            for name, result in results.items():
                plan.program.read(plan.buffers[name], result[start : start + size])
        return results

    def _run_chunk(self, plan: _Plan, images: Ints) -> None:
        program, begin = plan.program, 0
        program.reserve(len(images))
        program.write(plan.buffers[self.graph.input], images)
        for operation, end in zip(plan.operations, plan.ends, strict=True):
            if operation.kind != "fallback" or operation.step is None:
                continue
            program.run(begin, end)
            begin = end
            inputs = []
            for name in operation.step.inputs:
                value = np.empty((len(images), *self.graph.tensors[name].shape), np.int64)
                program.read(plan.buffers[name], value)
                inputs.append(value)
            result = self._exact[operation.target](inputs)
            program.write(plan.buffers[operation.target], np.ascontiguousarray(result))
        program.run(begin, program.operations())

    def profile(self, images: Ints, repeats: int = 5) -> list[tuple[str, float]]:
        """Shortest time of each operation, in seconds, on one arena of images; fallbacks are left out.

        Returns:
            (name of the step that produces, or of the tensor that it starts from; seconds), in order.
        """
        plan = self._plan(frozenset({self.graph.output}))
        self._run_chunk(plan, images)
        program, begin, result = plan.program, 0, []
        for operation, end in zip(plan.operations, plan.ends, strict=True):
            times = []
            for _ in range(repeats if end > begin else 0):
                started = time.perf_counter()
                program.run(begin, end)
                times.append(time.perf_counter() - started)
            if times:
                name = operation.source if operation.step is None else operation.step.name
                result.append((name, min(times)))
            begin = end
        return result

    # -- plan -> program

    def _plan(self, keep: frozenset[str]) -> _Plan:
        if keep not in self._plans:
            planner = _Planner(self.graph, set(keep), self._byte_dot)
            self._plans[keep] = self._build(planner, planner.plan(), keep)
        return self._plans[keep]

    def _build(self, planner: _Planner, operations: list[_Operation], keep: frozenset[str]) -> _Plan:
        lives: dict[str | int, tuple[int, int]] = {self.graph.input: (-1, -1)}
        for index, operation in enumerate(operations):
            for name in operation.writes():
                lives.setdefault(name, (index, index))
            for name in operation.reads():
                lives[name] = (lives[name][0], index)
            if operation.kind == "conv" and self._by_rows(operation):
                lives[index] = (index, index)  # its padded source; names belong to the network
        for kept in keep:
            lives[kept] = (lives[kept][0], len(operations))
        kinds: dict[str | int, tuple[int, int]] = {}
        shapes: dict[str | int, tuple[int, int, int]] = {}
        for key in lives:
            if isinstance(key, int):
                operation = operations[key]
                kinds[key] = planner.storage[operation.source]
                shapes[key] = self._padded_shape(operation)
            else:
                kinds[key] = planner.storage[key]
                shapes[key] = _image(self.graph.tensors[key].shape)
        sizes = {n: -(-int(np.prod(shapes[n])) * BYTES[kinds[n][0]] // 64) * 64 for n in lives}
        offsets = arena_layout(sizes, lives)
        program = _native.Program(self.instruction_set, self.threads)
        buffers = {
            key: program.add_buffer(
                shapes[key][1] * shapes[key][2], shapes[key][0], *kinds[key], offsets[key]
            )
            for key in lives
        }
        ends = []
        for index, operation in enumerate(operations):
            if operation.kind == "fallback":
                assert operation.step is not None
                if operation.target not in self._exact:
                    self._exact[operation.target] = exact_step(self.graph, operation.step)
            else:
                self._emit(program, operation, buffers, buffers.get(index, -1), planner)
            ends.append(program.operations())
        total = max(offsets[name] + sizes[name] for name in sizes)
        return _Plan(program, buffers, operations, ends, total)

    def _window(self, step: Step | None, source: str, result: str) -> list[int]:
        """Thirteen numbers; see Window in program.hpp."""
        channels, height, width = _image(self.graph.tensors[source].shape)
        _, out_height, out_width = _image(self.graph.tensors[result].shape)
        kernel, strides, pads, dilations = (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)
        if step is not None and step.op != "dense":
            kernel = (
                self.graph.arrays(step)["weight"].shape[2:]
                if step.op == "conv"
                else step.attributes["kernel"]
            )
            strides, pads = step.attributes["strides"], step.attributes["pads"]
            dilations = step.attributes.get("dilations", dilations)
        return [
            *(height, width, channels, out_height, out_width),
            *(*kernel, *strides, pads[0], pads[1], *dilations),
        ]

    def _by_rows(self, operation: _Operation) -> bool:
        step = operation.step
        if step is None or step.op != "conv" or step.attributes["groups"] != 1:
            return False
        few = self.graph.tensors[operation.source].shape[0] < FEW_CHANNELS
        return bool(
            few and step.attributes["dilations"][1] == 1 and self.graph.arrays(step)["weight"].shape[3] > 1
        )

    def _padded_shape(self, operation: _Operation) -> tuple[int, int, int]:
        assert operation.step is not None
        window = self._window(operation.step, operation.source, operation.step.name)
        height, width, channels, _, out_width, _, kernel_x, _, stride_x, _, left, _, _ = window
        return channels, height, max(left + width, (out_width - 1) * stride_x + kernel_x)

    def _emit(
        self,
        program: Any,
        operation: _Operation,
        buffers: Mapping[str | int, int],
        padded: int,
        planner: _Planner,
    ) -> None:
        step, source = operation.step, operation.source
        tensor = self.graph.tensors[source]
        if operation.kind == "flatten":
            program.add_flatten(buffers[source], buffers[operation.target])
            return
        result = source if step is None else step.name
        window, wide = self._window(step, source, result), _wide(self.graph.tensors[result])
        split = 0
        if operation.kind in ("pool", "concat"):
            pooling = POOL_NONE if step is None else POOL_MAX if step.op == "max_pool" else POOL_SUM
            program.add_pool(buffers[source], window, pooling, wide)
        else:
            assert step is not None
            weight = np.ascontiguousarray(self.graph.arrays(step)["weight"], np.int16)
            weight = weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1)))
            if operation.kind == "depthwise":
                program.add_depthwise(buffers[source], window, weight, wide)
            else:
                groups = 1 if step.op == "dense" else step.attributes["groups"]
                split = operation.stages[0].split() if wide else 0
                program.add_conv(
                    *(buffers[source], padded, window, weight, groups, planner.storage[source][0] == U8),
                    *(wide, split or SPLIT, tensor.low, tensor.high),
                )
        for stage in operation.stages:
            program.add_stage(stage.description(buffers, operation.offset, split))
            split = 0
