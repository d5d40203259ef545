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
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from radixpoint.engines.blas import exact_step
from radixpoint.engines.boundary import check_run, check_threads
from radixpoint.engines.native.isa import chosen_instruction_set, instruction_sets, native
from radixpoint.engines.native.moves import moves
from radixpoint.engines.native.planner import Operation, Planner
from radixpoint.engines.native.stage import SPLIT, Carrier, Ints, image_shape, wide
from radixpoint.errors import EngineError
from radixpoint.ir.arena import arena_layout
from radixpoint.ir.network import IntGraph, Step, verify

FEW_CHANNELS = 16
"""Below, a convolution reads whole rows of its window at a time."""
ARENA = 48 << 20
"""Bytes of activations in hand at a time, about: they then stay near the caches."""
MOST_IMAGES = 64


@dataclass(frozen=True)
class _Plan:
    """A program for one set of tensors to keep."""

    program: Any
    buffers: Mapping[str | int, int]
    operations: list[Operation]
    ends: list[int]  # operations of the program up to and with each of ours
    image_bytes: int


class NativeEngine:
    """Runs an IntGraph with the native kernels; equal to ``ReferenceEngine`` on every tensor.

    Args:
        network: a verified IntGraph.
        threads: how many; 0 takes all cores. Results do not depend on it.
        instruction_set: default: ``chosen_instruction_set``.
        winograd: whether 3 x 3 convolutions take fewer products where that is exact; by default, each shape
            is tried both ways once and the faster stays. Results do not depend on it.

    Attributes:
        notes: one line for each step that runs in the exact fallback, and why.

    Raises:
        EngineError: the native engine is not installed or cannot run what was asked for.
    """

    def __init__(
        self,
        network: IntGraph,
        threads: int = 0,
        instruction_set: str | None = None,
        winograd: bool | None = None,
    ) -> None:
        verify(network)
        self.network = network
        self.threads = check_threads(threads) or os.cpu_count() or 1
        self.instruction_set = instruction_set or chosen_instruction_set()
        rows = {isa.name: isa for isa in native.instruction_sets() if isa.supported}
        if self.instruction_set not in rows:
            raise EngineError(
                f"instruction set {self.instruction_set!r}: expected one of "
                f"{', '.join(name for name, usable in instruction_sets().items() if usable)} on this machine"
            )
        self._winograd = winograd if rows[self.instruction_set].winograd else False
        self._byte_dot = rows[self.instruction_set].byte_dot
        self._saturates = rows[self.instruction_set].saturates
        self._lock = Lock()  # one arena: calls from several threads take turns
        self._process = os.getpid()
        self._plans: dict[frozenset[str], _Plan] = {}
        self._exact: dict[str, Callable[[list[Ints]], Ints]] = {}

    @property
    def notes(self) -> list[str]:
        return [
            f"{o.target}: exact fallback ({o.reason})"
            for o in self._plan(frozenset(self.network.outputs)).operations
            if o.kind == "fallback"
        ]

    def run(self, images: Ints, keep: Collection[str] | None = None) -> dict[str, Ints]:
        """See ``radixpoint.engines.Engine``."""
        images, wanted = check_run(self.network, images, keep)
        if self._process != os.getpid():  # a fork: whoever held the lock has no thread here
            self._lock, self._process = Lock(), os.getpid()
        with self._lock:
            return self._run(images, frozenset(wanted))

    def _run(self, images: Ints, wanted: frozenset[str]) -> dict[str, Ints]:
        plan = self._plan(wanted)
        images = np.ascontiguousarray(images, np.int64)
        results = {
            name: np.empty((len(images), *self.network.tensors[name].shape), np.int64) for name in wanted
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
        program.write(plan.buffers[self.network.input], images)
        for operation, end in zip(plan.operations, plan.ends, strict=True):
            if operation.kind != "fallback" or operation.step is None:
                continue
            program.run(begin, end)
            begin = end
            inputs = []
            for name in operation.step.inputs:
                value = np.empty((len(images), *self.network.tensors[name].shape), np.int64)
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
        plan = self._plan(frozenset(self.network.outputs))
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
            planner = Planner(self.network, set(keep), self._byte_dot, self._saturates)
            self._plans[keep] = self._build(planner, planner.plan(), keep)
        return self._plans[keep]

    def _build(self, planner: Planner, operations: list[Operation], keep: frozenset[str]) -> _Plan:
        lives: dict[str | int, tuple[int, int]] = {self.network.input: (-1, -1)}
        for index, operation in enumerate(operations):
            for name in operation.writes():
                lives.setdefault(name, (index, index))
            for name in operation.reads():
                lives[name] = (lives[name][0], index)
            if operation.kind == "conv" and self._by_rows(operation):
                lives[index] = (index, index)  # its padded source; names belong to the network
        for kept in keep:
            lives[kept] = (lives[kept][0], len(operations))
        kinds: dict[str | int, tuple[Carrier, int]] = {}
        shapes: dict[str | int, tuple[int, int, int]] = {}
        for key in lives:
            if isinstance(key, int):
                operation = operations[key]
                kinds[key] = planner.storage[operation.source]
                shapes[key] = self._padded_shape(operation)
            else:
                kinds[key] = planner.storage[key]
                shapes[key] = image_shape(self.network.tensors[key].shape)
        storage = {key: native.Storage[carrier] for key, (carrier, _) in kinds.items()}
        sizes = {n: -(-int(np.prod(shapes[n])) * native.bytes_of(storage[n]) // 64) * 64 for n in lives}
        offsets = arena_layout(sizes, lives)
        program = native.Program(self.instruction_set, self.threads)
        buffers = {
            key: program.add_buffer(
                pixels=shapes[key][1] * shapes[key][2],
                channels=shapes[key][0],
                storage=storage[key],
                zero=kinds[key][1],
                offset=offsets[key],
            )
            for key in lives
        }
        ends = []
        for index, operation in enumerate(operations):
            if operation.kind == "fallback":
                assert operation.step is not None
                if operation.target not in self._exact:
                    self._exact[operation.target] = exact_step(self.network, operation.step)
            else:
                self._emit(program, operation, buffers, buffers.get(index, -1), planner)
            ends.append(program.operations())
        total = max(offsets[name] + sizes[name] for name in sizes)
        return _Plan(program, buffers, operations, ends, total)

    def _window(self, step: Step | None, source: str, result: str) -> Any:
        """How the result sees the source; a step that is no window sees one place."""
        channels, height, width = image_shape(self.network.tensors[source].shape)
        _, out_height, out_width = image_shape(self.network.tensors[result].shape)
        kernel, strides, pads, dilations = (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)
        if step is not None and step.op != "dense":
            kernel = step.attributes.get("kernel") or self.network.arrays(step)["weight"].shape[2:]
            strides, pads = step.attributes["strides"], step.attributes["pads"]
            dilations = step.attributes.get("dilations", dilations)
        return native.Window(
            height=height,
            width=width,
            channels=channels,
            out_height=out_height,
            out_width=out_width,
            kernel_y=kernel[0],
            kernel_x=kernel[1],
            stride_y=strides[0],
            stride_x=strides[1],
            top=pads[0],
            left=pads[1],
            dilation_y=dilations[0],
            dilation_x=dilations[1],
        )

    def _by_rows(self, operation: Operation) -> bool:
        step = operation.step
        if step is None or step.op != "conv" or step.attributes["groups"] != 1:
            return False
        few = self.network.tensors[operation.source].shape[0] < FEW_CHANNELS
        return bool(
            few and step.attributes["dilations"][1] == 1 and self.network.arrays(step)["weight"].shape[3] > 1
        )

    def _padded_shape(self, operation: Operation) -> tuple[int, int, int]:
        assert operation.step is not None
        window = self._window(operation.step, operation.source, operation.step.name)
        reach = max(window.left + window.width, (window.out_width - 1) * window.stride_x + window.kernel_x)
        return window.channels, window.height, reach

    def _emit(
        self,
        program: Any,
        operation: Operation,
        buffers: Mapping[str | int, int],
        padded: int,
        planner: Planner,
    ) -> None:
        step, source = operation.step, operation.source
        tensor = self.network.tensors[source]
        if operation.kind == "move":
            assert step is not None
            starts, lengths, fill = moves(self.network, step)
            program.add_move(
                source=buffers[source],
                target=buffers[operation.target],
                starts=starts,
                lengths=lengths,
                fill=fill,
            )
            return
        result = source if step is None else step.name
        window, is_wide = self._window(step, source, result), wide(self.network.tensors[result])
        split = 0
        if operation.kind in ("pool", "concat"):
            pooling = "NONE" if step is None else "MAX" if step.op == "max_pool" else "SUM"
            program.add_pool(
                source=buffers[source], window=window, pooling=native.Pooling[pooling], wide=is_wide
            )
        else:
            assert step is not None
            weight = np.ascontiguousarray(self.network.arrays(step)["weight"], np.int16)
            weight = weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1)))
            if operation.kind == "depthwise":
                program.add_depthwise(source=buffers[source], window=window, weights=weight, wide=is_wide)
            else:
                split = operation.stages[0].split() if is_wide else 0
                program.add_conv(
                    source=buffers[source],
                    padded=padded,
                    window=window,
                    weights=weight,
                    groups=step.attributes.get("groups", 1),
                    bytes=planner.storage[source][0] == "U8",
                    wide=is_wide,
                    split=split or SPLIT,
                    low=tensor.low,
                    high=tensor.high,
                )
                if self._winograd is not False and planner.squares_fit(step):
                    program.add_winograd(weights=weight, always=bool(self._winograd))
        for stage in operation.stages:
            program.add_stage(stage.built(buffers, operation.offset, split))
            split = 0
