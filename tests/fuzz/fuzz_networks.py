"""Random quantized networks, built step by step so that they are right, and damaged ones."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import save

from radixpoint.arithmetic.formats import Overflow, Rounding, TensorFormat
from radixpoint.errors import FormatError, GraphError
from radixpoint.ir.network import IntGraph, IntParameter, IntTensor, Step, derived_tensor, verify
from radixpoint.ir.ops import STEPS

NAMES = ("a", "padded 1", "tensor", "p000", "result", "é", "x" * 50, "a/1.conv", "../x", "weight", "b", "low")


class Builder:
    """Appends random steps to a network; every one of them is what ``verify`` derives."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.numbers = np.random.default_rng(random.getrandbits(63))
        self.tensors: dict[str, IntTensor] = {}
        self.parameters: dict[str, IntParameter] = {}
        self.steps: list[Step] = []

    def format(self, longest: int, fractions: int = 1) -> TensorFormat:
        signed = self.random.random() < 0.7
        word = self.random.randint(2 if signed else 1, longest)
        near = self.random.choice([0, 0, 3, word, -4, 12])
        spread = [near + self.random.randint(-3, 3) for _ in range(fractions)]
        return TensorFormat(signed, word, tuple(spread))

    def parameter(self, shape: tuple[int, ...], longest: int, by_channel: bool = True) -> str:
        per = shape[0] if by_channel and shape[0] > 1 and self.random.random() < 0.4 else 1
        form = self.format(longest, per)
        kind = self.random.random()
        low, high = form.min, form.max
        if kind < 0.2:
            data = self.numbers.choice([low, high], shape)
        elif kind < 0.3:
            data = np.zeros(shape, np.int64)
        else:
            data = self.numbers.integers(low, high, shape, endpoint=True)
        name = f"p{len(self.parameters)}"
        self.parameters[name] = IntParameter(np.asarray(data, np.int64), form)
        return name

    def name(self, op: str) -> str:
        name = self.random.choice(NAMES) if self.random.random() < 0.3 else f"{op}{len(self.steps)}"
        while name in self.tensors:
            name += "'"
        return name

    def put(
        self, op: str, inputs: list[str], attributes: dict[str, Any], roles: dict[str, str], to: Any = None
    ) -> str:
        own = {role: self.parameters[key] for role, key in roles.items()}
        sources = [self.tensors[i] for i in inputs]
        name = self.name(op)
        made = derived_tensor(op, attributes, sources, own, name, None, to)
        if np.prod(made.shape) > 1 << 14 or made.format.word_length > 64:
            raise GraphError("too large to try")
        self.tensors[name] = made
        self.steps.append(Step(name, op, tuple(inputs), attributes, roles))
        return name

    def window(self, shape: tuple[int, ...], kernel: tuple[int, int], dilated: bool) -> dict[str, Any]:
        r = self.random
        result: dict[str, Any] = {
            "strides": (r.choice([1, 1, 2, 3, 5]), r.choice([1, 1, 2, 4])),
            "pads": tuple(r.choice([0, 0, 1, 2, kernel[0], 7]) for _ in range(4)),
        }
        if dilated:
            result["dilations"] = (r.choice([1, 1, 2, 3]), r.choice([1, 1, 2]))
        return result

    def cast(self, x: str) -> str:
        r = self.random
        source = self.tensors[x]
        channels = source.shape[0] if r.random() < 0.3 else 1
        word = r.randint(2, r.choice([4, 8, 9, 16, 17, 32]))
        base = source.format.fraction_lengths[0] - max(0, source.high.bit_length() - word + r.randint(-2, 3))
        base += r.choice([0, 0, 0, 0, -40, 70])
        form = TensorFormat(True, word, tuple(base + r.randint(-1, 1) for _ in range(channels)))
        if r.random() < (0.5 if source.low >= 0 else 0.25):
            form = TensorFormat(False, word, form.fraction_lengths)
        attributes = {
            "rounding": r.choice(list(Rounding)).value,
            "overflow": r.choice(list(Overflow)).value,
            "stream": r.getrandbits(20),
            "seed": r.getrandbits(r.choice([1, 63, 64])),
        }
        return self.put("cast", [x], attributes, {}, form)

    def step(self, x: str) -> str:
        r = self.random
        op = r.choice([*STEPS, "conv", "conv", "conv", "conv", "max_pool", "sum_pool", "dense"])
        source = self.tensors[x]
        shape = source.shape
        if op == "cast" or source.format.word_length > 32:
            return self.cast(x)
        if op == "conv":
            groups = r.choice([1, 1, shape[0], *(g for g in (2, 3, 4) if shape[0] % g == 0)])
            outputs = groups * r.choice([1, 1, 2, 3, 17 if groups == 1 else 1])
            kernel = (r.randint(1, 4), r.choice([1, 2, 3, 7]))
            weight = self.parameter(
                (outputs, shape[0] // groups, *kernel), r.choice([2, 7, 8, 9, 16, 17, 24])
            )
            attributes = self.window(shape, kernel, True) | {"groups": groups}
            return self.put(op, [x], attributes, {"weight": weight})
        if op == "dense":
            weight = self.parameter((r.choice([1, 3, 10, 33]), shape[0]), r.choice([2, 8, 9, 16, 20]))
            return self.put(op, [x], {}, {"weight": weight})
        if op in ("scale", "offset"):
            whole = [shape[0] if r.random() < 0.8 else 1, *(1 if r.random() < 0.8 else s for s in shape[1:])]
            role = "factor" if op == "scale" else "value"
            return self.put(op, [x], {}, {role: self.parameter(tuple(whole), r.choice([4, 8, 16, 17, 32]))})
        if op == "add":
            others = [n for n, t in self.tensors.items() if t.shape == shape]
            return self.put(op, r.sample([x, r.choice(others)], 2), {}, {})
        if op in ("maximum", "minimum"):
            others = [n for n, t in self.tensors.items() if t.shape == shape]
            return self.put(op, [x, r.choice(others)], {}, {})
        if op == "multiply":
            others = [n for n, t in self.tensors.items() if len(t.shape) == len(shape)]
            return self.put(op, r.sample([x, r.choice(others)], 2), {}, {})
        if op == "sum_channels":
            return self.put(op, [x], {"size": r.choice([1, 2, 3, 5, 40])}, {})
        if op == "select":
            chosen: dict[str, tuple[int, ...]] = {name: () for name in ("channels", "rows", "columns")}
            lowest = r.choice([0, 0, -1])
            for name, size in zip(chosen, shape, strict=False):
                if r.random() < 0.5:
                    count = r.choice([1, size, 2 * size])
                    chosen[name] = tuple(r.randint(lowest, size - 1) for _ in range(count))
            fill = r.choice([0, source.low, source.high, 100])
            return self.put(op, [x], {**chosen, "fill": fill}, {})
        if op == "rearrange":
            split = tuple(p for size in shape for p in ((2, size // 2) if size % 2 == 0 else (size,)))
            order = tuple(r.sample(range(len(split)), len(split)))
            moved = [split[i] for i in order]
            cuts = sorted(r.sample(range(1, len(moved) + 2), 2)) if r.random() < 0.8 else None
            parts = (
                [moved] if cuts is None else [moved[: cuts[0]], moved[cuts[0] : cuts[1]], moved[cuts[1] :]]
            )
            joined = tuple(int(np.prod(part)) for part in parts)
            return self.put(op, [x], {"split": split, "order": order, "shape": joined}, {})
        if op == "concat":
            same = [
                n for n, t in self.tensors.items() if t.shape[1:] == shape[1:] and t.format == source.format
            ]
            return self.put(
                op, [x, *(r.choice(same) for _ in range(r.randint(0, 3)))] if same else [x], {}, {}
            )
        if op == "clamp":
            ends = sorted(r.randint(source.format.min, source.format.max) for _ in range(2))
            if r.random() < 0.5:
                ends = [0, source.format.max]
            return self.put(op, [x], {"low": ends[0], "high": ends[1]}, {})
        if op == "lookup":
            count = source.high - source.low + 1 + r.randint(0, 3)
            if count > 1 << 12:
                return self.cast(x)
            return self.put(op, [x], {"first": source.low}, {"table": self.parameter((count,), 16, False)})
        if op in ("max_pool", "sum_pool"):
            kernel = (r.choice([1, 2, 3, 5, 16]), r.choice([1, 2, 3, 16]))
            attributes = self.window(shape, kernel, False) | {"kernel": kernel}
            attributes["pads"] = tuple(r.randint(0, k - 1) for k in (*kernel, *kernel))
            return self.put(op, [x], attributes, {})
        if op == "divide":
            name = f"p{len(self.parameters)}"
            apart = tuple(1 if r.random() < 0.7 else s for s in shape)
            data = self.numbers.integers(1, r.choice([2, 50, 1 << 20]), apart)
            self.parameters[name] = IntParameter(data, TensorFormat(True, 32, (0,)))
            attributes = {
                "rounding": r.choice(list(Rounding)[:-1]).value,
                "overflow": r.choice(list(Overflow)).value,
            }
            form = TensorFormat(
                True, r.randint(2, 32), (source.format.fraction_lengths[0] + r.randint(-6, 6),)
            )
            return self.put(op, [x], attributes, {"divisor": name}, form)
        return self.put(op, [x], {}, {})


def random_network(seed: int) -> IntGraph | None:
    """A network that ``verify`` accepts, or None where the dice found none."""
    random = Random(seed)
    b = Builder(random)
    shape = random.choice(
        [(1,), (5,), (40,), (1, 1, 1), (3, 5, 7), (4, 8, 8), (16, 3, 4), (1, 9, 2), (33, 2, 3)]
    )
    form = TensorFormat(
        random.random() < 0.7, random.choice([2, 7, 8, 9, 16, 17, 24, 32]), (random.randint(-3, 9),)
    )
    name = random.choice(NAMES)
    b.tensors[name] = IntTensor(shape, form, form.min, form.max, name, name)
    x = name
    for _ in range(random.randint(1, 9)):
        for _ in range(12):
            before = dict(b.parameters)
            try:
                x = b.step(random.choice(list(b.tensors)) if random.random() < 0.25 else x)
                break
            except (GraphError, FormatError, ValueError, OverflowError):
                b.parameters = before
    if not b.steps:
        return None
    if b.tensors[x].format.per_channel:
        try:
            x = b.put(
                "cast",
                [x],
                {"rounding": "RND", "overflow": "SAT", "stream": 0, "seed": 0},
                {},
                TensorFormat(True, 16, (b.tensors[x].format.fraction_lengths[0],)),
            )
        except (GraphError, FormatError):
            return None
    used = {key for step in b.steps for key in step.parameters.values()}
    network = IntGraph(
        name, b.tensors, tuple(b.steps), x, {k: p for k, p in b.parameters.items() if k in used}, {}
    )
    try:
        verify(network)
    except GraphError:
        return None
    return network


def random_images(network: IntGraph, seed: int, count: int = 3) -> Any:
    """Stored integers, the ends of the range among them."""
    random = np.random.default_rng(seed)
    tensor = network.tensors[network.input]
    images = random.integers(tensor.low, tensor.high, (count, *tensor.shape), endpoint=True)
    images[0] = random.choice([tensor.low, tensor.high], tensor.shape)
    return images


EDGES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 8, 31, 32, 33, 62, 63, 64, 65, 127, 128, 255, 256, 1000, 65535, 65536, 1 << 20),
    *((1 << 31) - 1, 1 << 31, (1 << 63) - 1, -(1 << 31), 1 << 62, -(1 << 63), 0.5, -0.5, 1e300, True, False),
    *(None, "", "x", [], [1], {}, [[1]], "RND", "SAT", [1, 1], [0, 0, 0, 0], [1 << 40, 1]),
)


def damaged_json(random: Random, document: Any, times: int = 1) -> Any:
    """A JSON document with values replaced, removed, swapped or doubled."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    copy = json.loads(json.dumps(document))
    walk(copy)
    for _ in range(times):
        holder, key = random.choice(places)
        what = random.random()
        try:
            old = holder[key]
            if what < 0.5:
                holder[key] = random.choice(EDGES)
            elif what < 0.65 and isinstance(old, int | float):
                holder[key] = old + random.choice([-1, 1, 100, -100, 0.5])
            elif what < 0.75:
                del holder[key]
            elif what < 0.9:
                other, place = random.choice(places)
                holder[key], other[place] = other[place], old
            elif isinstance(holder, dict):
                holder[random.choice(["", "x", "input", str(key) + "x"])] = old
            else:
                holder.insert(0, old)
        except (KeyError, IndexError, TypeError):
            continue
    try:
        json.dumps(copy)
    except ValueError:  # a part was put into itself: no file can say that
        return document
    return copy


def damaged_bytes(random: Random, data: bytes) -> bytes:
    """Bytes flipped, cut, doubled, inserted."""
    raw = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 5, 20])):
        if not raw:
            break
        at = random.randrange(len(raw))
        match random.randrange(6):
            case 0:
                raw[at] ^= 1 << random.randrange(8)
            case 1:
                raw[at] = random.choice([0, 1, 127, 128, 255])
            case 2:
                del raw[at : at + random.choice([1, 4, 1000])]
            case 3:
                raw[at:at] = bytes(random.randrange(256) for _ in range(random.choice([1, 4, 40])))
            case 4:
                raw[at : at + 4] = struct.pack("<I", random.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 20]))
            case _:
                raw = raw[:at] if random.random() < 0.3 else raw
    return bytes(raw)


def damaged_network(random: Random, saved: bytes) -> bytes:
    """A saved network with its header or its bytes damaged."""
    if random.random() < 0.15:
        return damaged_bytes(random, saved)
    size = int.from_bytes(saved[:8], "little")
    header = json.loads(saved[8 : 8 + size])
    metadata = header.pop("__metadata__")
    arrays = {
        name: np.frombuffer(
            saved,
            {"I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}[entry["dtype"]],
            offset=8 + size + entry["data_offsets"][0],
            count=int(np.prod(entry["shape"])),
        ).reshape(entry["shape"])
        for name, entry in header.items()
    }
    network = damaged_json(random, json.loads(metadata["radixpoint_network"]), random.choice([1, 1, 2, 4]))
    if random.random() < 0.2 and arrays:
        name = random.choice(list(arrays))
        kind = random.choice([np.float32, np.uint8, np.int8, np.int64, np.bool_])
        with np.errstate(all="ignore"):
            arrays[name] = random.choice(
                [arrays[name].T, arrays[name].astype(kind), arrays[name].reshape(-1)]
            )
        arrays[name] = np.ascontiguousarray(arrays[name])
    return save(arrays, {"radixpoint_network": json.dumps(network)})
