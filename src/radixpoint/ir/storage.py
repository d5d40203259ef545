"""An IntGraph as one file: safetensors, with the structure as JSON in its header."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.errors import FormatError, GraphError, ModelError
from radixpoint.files import write_whole
from radixpoint.ir.graph import freeze
from radixpoint.ir.network import IntGraph, IntParameter, IntTensor, Step, verify

_KEY = "radixpoint_network"


class _Format(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    signed: bool
    word_length: int
    fraction_lengths: tuple[int, ...]


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shape: tuple[int, ...]
    format: _Format
    low: int
    high: int
    layer: str
    value: str | None


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]
    parameters: dict[str, str]


class _Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    radixpoint_network: Literal[1]
    input: str
    output: str
    tensors: dict[str, _Tensor]
    steps: list[_Step]
    parameters: dict[str, _Format]
    metadata: dict[str, str]
    other_outputs: tuple[str, ...] = ()


def _format(form: TensorFormat) -> _Format:
    return _Format(form.signed, form.word_length, form.fraction_lengths)


def _narrow(form: TensorFormat) -> type:
    return np.int8 if form.max < 1 << 7 else np.int16 if form.max < 1 << 15 else np.int32


def save_network(network: IntGraph, path: Path) -> None:
    """Write an IntGraph.

    Raises:
        RunError: the file cannot be written.
    """
    write_whole(path, encoded_network(network))


def encoded_network(network: IntGraph) -> bytes:
    """What ``save_network`` writes; the same network gives the same bytes."""
    record = _Network(
        1,
        network.input,
        network.output,
        {
            name: _Tensor(t.shape, _format(t.format), t.low, t.high, t.layer, t.value)
            for name, t in network.tensors.items()
        },
        [_Step(s.name, s.op, s.inputs, dict(s.attributes), dict(s.parameters)) for s in network.steps],
        {name: _format(p.format) for name, p in network.parameters.items()},
        dict(network.metadata),
        network.other_outputs,
    )
    arrays: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(p.data, _narrow(p.format) if p.format.signed else np.int64)
        for name, p in network.parameters.items()
    }
    return bytes(save(arrays, {_KEY: msgspec.json.encode(record, order="deterministic").decode()}))


def _lists_to_tuples(value: Any) -> Any:
    return tuple(_lists_to_tuples(v) for v in value) if isinstance(value, list) else value


def load_network(path: str | Path) -> IntGraph:
    """Read and verify an IntGraph.

    Raises:
        ModelError: not such a file.
        GraphError: its contents break a rule.
    """
    if not Path(path).is_file():
        raise ModelError(f"{path}: {'is no regular file' if Path(path).exists() else 'no such file'}")
    try:
        with safe_open(str(path), "numpy") as archive:
            header = (archive.metadata() or {}).get(_KEY)
            if header is None:
                raise ModelError(f"{path}: a safetensors file, but no quantized network")
            record = msgspec.json.decode(header, type=_Network)
            stored = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        strange = next((name for name, value in stored.items() if value.dtype.kind != "i"), None)
        if strange is not None:
            raise GraphError(f"{path}: parameter {strange!r} is {stored[strange].dtype}: expected integers")
        arrays = {name: value.astype(np.int64) for name, value in stored.items()}
        missing = set(record.parameters) ^ set(arrays)
        if missing:
            raise GraphError(f"{path}: parameters {sorted(missing)} without data or without format")

        def form(f: _Format) -> TensorFormat:
            return TensorFormat(f.signed, f.word_length, f.fraction_lengths)

        network = IntGraph(
            record.input,
            {
                name: IntTensor(t.shape, form(t.format), t.low, t.high, t.layer, t.value)
                for name, t in record.tensors.items()
            },
            tuple(
                Step(
                    s.name,
                    s.op,
                    s.inputs,
                    {k: _lists_to_tuples(v) for k, v in s.attributes.items()},
                    s.parameters,
                )
                for s in record.steps
            ),
            record.output,
            {name: IntParameter(freeze(arrays[name]), form(f)) for name, f in record.parameters.items()},
            record.metadata,
            record.other_outputs,
        )
    except (OSError, SafetensorError, msgspec.MsgspecError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not a readable quantized network: {error}") from None
    except FormatError as error:
        raise GraphError(f"{path}: {error}") from None
    try:
        verify(network)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
    return network
