"""Comparing dumps: faults are planted in the text of the exported C, and the right kind is named, or none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

import exports
import networks
from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.data import ImageSet, Preprocessing
from radixpoint.engines import ReferenceEngine, quantize_images
from radixpoint.errors import DataError
from radixpoint.explaining.compare import Comparison, compare
from radixpoint.explaining.dump import Dumped, matched, read_dump
from radixpoint.explaining.faults import Planted, copied, faults
from radixpoint.export import export_network
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph
from radixpoint.ir.plan import Plan
from radixpoint.ir.storage import save_network
from test_cli import fails
from test_cli import run as command
from test_native import COMPILER

pytestmark = pytest.mark.slow("it compiles")


@dataclass(frozen=True)
class Case:
    """A network and what is put in."""

    network: IntGraph
    stored: NDArray[np.int64]

    @property
    def results(self) -> list[str]:
        """What a layer ends with."""
        order = Plan(self.network).order
        return [name for name in order if self.network.tensors[name].value is not None]

    def right(self) -> dict[str, NDArray[np.int64]]:
        return ReferenceEngine(self.network).run(self.stored, self.results)


def case(graph: Graph, scope: str, first: str) -> Case:
    """Saturates, so that overflow shows."""
    point = {"scope": scope, "rule": "percentile", "percentile": 97.0}
    network = exports.quantized(graph, binary_point=point)
    images = [exports.extreme_image(network, first), exports.example_images(network, 3)]
    return Case(network, np.concatenate(images))


RESIDUAL = case(networks.residual(), "tensor", "conv0")
MIXED = case(networks.mixed(), "channel", "conv0")
NETWORK, STORED, RESULTS = RESIDUAL.network, RESIDUAL.stored, RESIDUAL.results
needs_c = pytest.mark.skipif(COMPILER is None, reason="no C compiler: faults in C are NOT planted")


@dataclass(frozen=True)
class Edit:
    """A change of the exported C: in the function of a layer, or (``layer`` None) in all of them."""

    kind: str
    layer: str | None
    pattern: str
    to: str | Callable[[re.Match[str]], str]


WINDOW = r"\(c \* 3 \+ ky\) \* 3 \+ kx"
SUM = r"sums\[j\] \+= \(int32_t\)w\[k\] \* a\[k\];"
OFFSET = r"v = v \+ rx_align32\((p->\w+\[c\]), (\d+)\);"
EDITS = {
    "truncates": Edit("rounding mode", "conv0", r"rx_round32_RND", "rx_round32_TRN"),
    "to even": Edit("rounding mode", "batch_norm1", r"rx_round32_RND", "rx_round32_RND_CONV"),
    "towards zero everywhere": Edit("rounding mode", None, r"rx_round32_RND", "rx_round32_TRN_ZERO"),
    "average truncates": Edit("rounding mode", "average_pool13", r"rx_divide32_RND", "rx_divide32_TRN"),
    "wraps": Edit("overflow", "batch_norm1", r"rx_ssat\(v, 11\)", "rx_wrap32(v, 11, 1)"),
    "wraps everywhere": Edit("overflow", None, r"rx_ssat\(v, 11\)", "rx_wrap32(v, 11, 1)"),
    "symmetric": Edit("overflow", "batch_norm1", r"rx_ssat\(v, 11\)", "rx_saturate32(v, -1023, 1023)"),
    "one place more": Edit("shift", "conv0", r"rx_round32_RND\(v, (\d+)\)", r"rx_round32_RND(v, \1 + 1)"),
    "one place fewer": Edit("shift", "batch_norm5", r"(rx_round32_RND)\(v, (\d+)\)", r"\1(v, \2 - 1)"),
    "truncated first": Edit("truncation before the addition", "batch_norm1", OFFSET,
                            r"v = rx_align32(v >> SHIFT, SHIFT) + rx_align32(\1, \2);"),
    "rounded first": Edit("rounded twice", "batch_norm1", OFFSET,
                          r"v = rx_align32(rx_round32_RND(v, SHIFT), SHIFT) + rx_align32(\1, \2);"),
    "no sign": Edit("sign", "conv0", SUM, "sums[j] += (int32_t)w[k] * (a[k] & 127);"),
    "16 bits": Edit("accumulator", "conv0", r"v = (sums\[c - first\]);", r"v = (int16_t)\1;"),
    "flipped": Edit("kernel flipped", "conv0", WINDOW, "(c * 3 + 2 - ky) * 3 + 2 - kx"),
    "transposed": Edit("kernel transposed", "conv7", WINDOW, "(c * 3 + kx) * 3 + ky"),
    "top and left": Edit("padding side", "conv7", r"(y|x) \* 2 \+ k(y|x) \* 1 - 1", r"\1 * 2 + k\2 * 1 - 2"),
    "bottom and right": Edit("padding side", "conv0", r"(y|x) \* 1 \+ k(y|x) \* 1 - 1", r"\1 * 1 + k\2 * 1"),
    "bias not aligned": Edit("bias", "batch_norm1", OFFSET, r"v = v + \1;"),
    "bias halved": Edit("bias", "batch_norm1", OFFSET, r"v = v + rx_align32(\1, \2 - 1);"),
    "bias missing": Edit("bias", "batch_norm8", OFFSET, r"v = v + 0 * (\1);"),
    "bias subtracted": Edit("bias", "batch_norm5", OFFSET, r"v = v - rx_align32(\1, \2);"),
    "no ReLU": Edit("ReLU", "relu2", r"rx_usat\(v, 10\)", "rx_ssat(v, 11)"),
    "BGR": Edit("image", "conv0", SUM, "sums[j] += (int32_t)w[k] * a[2 - k];"),
    "weights without sign": Edit("sign", "conv7", SUM, "sums[j] += (w[k] & 127) * (int32_t)a[k];"),
    "addition not aligned": Edit("addition", "add11", r"rx_align32\((\w+\[i\]), 1\)", r"\1"),
    "shortcut missing": Edit("addition", "add11", r"v = a \+ b;", "v = a; (void)b;"),
    "factor halved": Edit("factor", "batch_norm5", r"(v \*= .*;)", r"\1 v /= 2;"),
}  # fmt: skip
"""One thing that is wrong each."""
MOVED = {"0": "10", "6": "4", "12": "0"}
"""Where the parts of a concatenation begin when they come in reverse order."""
MIXED_EDITS = {
    "channels last": Edit("channels last", "fc12", r"(w\[k\] \* \w+)\[k\]", r"\1[k % 8 * 18 + k / 8]"),
    "padding counted": Edit("average", "average_pool7", r"\(int32_t\)p->\w+\[y \* 6 \+ x\]", "(int32_t)9"),
    "first shift": Edit("one binary point", "conv8", r"(p->s\d+_shift)\[c\]", r"\1[0]"),
    "first alignment": Edit("one binary point", "batch_norm9", r"(p->s\d+_left_value)\[c\]", r"\1[0]"),
    "parts reversed": Edit("concatenation", "concat6", r"c = (\d+) \+ k", lambda m: f"c = {MOVED[m[1]]} + k"),
    "bias unaligned": Edit("bias", "conv5", r"rx_align32\(v, p->s13_left_0\[c\]\)", "v"),
}  # fmt: skip
"""The same for what the first network does not have."""
TOGETHER = [
    ("truncates", "no ReLU"),
    ("flipped", "bias missing"),
    ("wraps", "one place fewer"),
    ("one place more", "symmetric"),
    ("truncated first", "wraps"),
    ("BGR", "transposed"),
    ("to even", "wraps"),
    ("top and left", "average truncates"),
]
"""Two at a time: in different layers, and in the same one."""


ROWS = re.compile(
    r"for \(int32_t ky = ky_first; ky < ky_last; \+\+ky\) \{\s*(?P<iy>const int32_t iy = [^;]*;)\s*"
    r"const int32_t length = \(kx_last - kx_first\) \* (?P<terms>\d+);\s*"
    r"const (?P<value>\w+) \*a = (?P<x>\w+) \+ \(iy \* (?P<columns>\d+) \+ x \* (?P<stride>\d+) \+ "
    r"kx_first - (?P<left>\d+)\) \* (?P<channels>\d+);\s*"
    r"const (?P<weight>\w+) \*b = (?P<w>[\w>-]+) \+ first \* \d+ \+ "
    r"\(ky \* \d+ \+ kx_first\) \* \d+;.*?sums\);.*?\}\n",
    re.S,
)
"""How the exported C sums a window: row by row, four outputs together."""
DENSE = re.compile(
    r"(?:if \([^)]*\) )?rx_dot_\w+_4\((?P<x>t\w+), (?P<w>p->\w+) \+ first \* (?P<terms>\d+),[^;]*;"
    r"(?:\s*else for[^\n]*\n)?"
)


def plain(body: str) -> str:
    """A function with its sums as loops over single products, in which a fault can be planted."""
    ends = re.search(
        r"ky_last = rx_last\([^,]*, (\d+), (\d+), \d+\);.*?kx_last = rx_last\([^,]*, (\d+), (\d+), \d+\);",
        body,
        re.S,
    )
    outputs = re.search(r"first < (\d+);", body)

    def rows(match: re.Match[str]) -> str:
        assert ends is not None
        assert outputs is not None
        height, kernel_y, width, kernel_x = map(int, ends.groups())
        g = match.groupdict()
        return f"""for (int32_t j = 0; j < 4 && first + j < {outputs[1]}; ++j) {{
          const int32_t c = first + j;
          for (int32_t ky = 0; ky < {kernel_y}; ++ky) {{
            {g["iy"]}
            if (iy < 0 || iy >= {height}) continue;
            for (int32_t kx = 0; kx < {kernel_x}; ++kx) {{
              const int32_t ix = x * {g["stride"]} + kx * 1 - {g["left"]};
              if (ix < 0 || ix >= {width}) continue;
              const {g["value"]} *a = {g["x"]} + (iy * {g["columns"]} + ix) * {g["channels"]};
              const {g["weight"]} *w = {g["w"]} + ((c * {kernel_y} + ky) * {kernel_x} + kx) * {g["terms"]};
              for (int32_t k = 0; k < {g["terms"]}; ++k) sums[j] += (int32_t)w[k] * a[k];
            }}
          }}
        }}
"""

    def dense(match: re.Match[str]) -> str:
        assert outputs is not None
        return (
            f"for (int32_t j = 0; j < 4 && first + j < {outputs[1]}; ++j) {{"
            f"const int8_t *w = {match['w']} + (first + j) * {match['terms']};"
            f"for (int32_t k = 0; k < {match['terms']}; ++k) sums[j] += (int32_t)w[k] * {match['x']}[k]; }}\n"
        )

    return DENSE.sub(dense, ROWS.sub(rows, body))


def planted(text: str, edit: Edit) -> str:
    """The C text with an edit; the places by which the layer's cast shifts are put in for SHIFT.

    A layer begins with its function, or within the function of the layer before it, behind its name.
    """
    functions = list(re.finditer(r"static void layer_\d+_(\w+)\(.*?\n}\n", text, re.S))
    count = 0
    for function in reversed(functions):
        parts = re.split(r"(/\* \w+ \*/\n)", plain(function[0]))
        names = [function[1], *(re.findall(r"\w+", mark)[0] for mark in parts[1::2])]
        for number, name in enumerate(names):
            if edit.layer in (None, name):
                body = parts[2 * number]
                shift = re.search(r"rx_round\w+\(v, (\d+)", body)
                to = edit.to
                if isinstance(to, str):
                    to = to.replace("SHIFT", shift[1] if shift else "0")
                parts[2 * number] = re.sub(edit.pattern, to, body)
                count += parts[2 * number] != body
        text = text[: function.start()] + "".join(parts) + text[function.end() :]
    assert count, edit
    return text


def test_plain_loops_are_the_same_network(tmp_path: Path) -> None:
    for number, case in enumerate((RESIDUAL, MIXED)):
        nothing = Edit("", None, r"RX_TRACE", "/**/RX_TRACE")
        export_network(case.network, "c", tmp_path / str(number), case.stored)
        text = (tmp_path / str(number) / "network.c").read_text()
        functions = re.findall(r"static void layer_\d+_\w+\(.*?\n}\n", text, re.S)
        assert any(plain(function) != function for function in functions)
        dump = dumped(case, tmp_path / f"{number}b", [nothing])
        expected = ReferenceEngine(case.network).run(case.stored, list(dump))
        assert all(np.array_equal(dump[name], expected[name]) for name in dump)


def dumped(case: Case, to: Path, edits: list[Edit]) -> dict[str, NDArray[np.int64]]:
    """Every tensor that the C computes, with faults in its text; channels first."""
    export_network(case.network, "c", to, case.stored)
    text = (to / "network.c").read_text()
    for edit in edits:
        changed = planted(text, edit)
        assert changed != text, edit
        text = changed
    (to / "network.c").write_text(text)
    sources = [to / name for name in ("network.c", "parameters.c", "harness.c")]
    compiler = [shutil.which("cc") or "gcc", "-std=c99", "-O1", "-DRADIXPOINT_TRACE"]
    subprocess.run([*compiler, *sources, "-o", to / "run"], check=True)
    put_in = np.moveaxis(case.stored, 1, -1).astype("<i8").tobytes()
    done = subprocess.run([to / "run"], input=put_in, capture_output=True, check=True)
    found = np.frombuffer(done.stdout, "<i8").reshape(len(case.stored), -1)
    values, begin = {}, 0
    for name in Plan(case.network).order:
        shape = case.network.tensors[name].shape
        size = int(np.prod(shape))
        part = found[:, begin : begin + size]
        last = (len(found), *shape[1:], shape[0]) if len(shape) == 3 else (len(found), *shape)
        values[name] = np.moveaxis(part.reshape(last), -1, 1) if len(shape) == 3 else part.reshape(last)
        begin += size
    return values


def compared(values: dict[str, NDArray[np.int64]], case: Case = RESIDUAL) -> Comparison:
    """Of a dump of the layers' results."""
    given = [Dumped(name, values[name]) for name in case.results]
    return compare(case.network, matched(case.network, given, len(case.stored)), case.stored)


@needs_c
@pytest.mark.parametrize("case", [RESIDUAL, MIXED], ids=["residual", "mixed"])
def test_an_equal_dump_has_no_cause(case: Case, tmp_path: Path) -> None:
    values = dumped(case, tmp_path / "c", [])
    given = [Dumped(name, x) for name, x in values.items()]
    found = compare(case.network, matched(case.network, given, len(case.stored)), case.stored)
    assert found.tensors == tuple(values)
    assert found.equal
    assert not found.causes
    assert not found.differences


def expect(case: Case, values: dict[str, NDArray[np.int64]], kinds: list[str]) -> None:
    """It is found, and every cause explains all; the right one is among them, and of one fault the first."""
    found = compared(values, case)
    assert not found.equal
    right = case.right()
    first = next(n for n in case.results if not np.array_equal(values[n], right[n]))
    difference = found.differences[0]
    assert difference.tensor == first
    assert (difference.expected, difference.got) == (
        right[first][difference.place],
        values[first][difference.place],
    )
    assert difference.count == (values[first] != right[first]).sum()
    assert all(cause.whole for cause in found.causes)
    assert sorted(kinds) in [sorted(cause.kinds) for cause in found.causes], found.causes
    if len(kinds) == 1:
        assert found.causes[0].kinds == tuple(kinds), found.causes


@needs_c
@pytest.mark.parametrize("name", EDITS)
def test_one_fault_in_c(tmp_path: Path, name: str) -> None:
    expect(RESIDUAL, dumped(RESIDUAL, tmp_path / "c", [EDITS[name]]), [EDITS[name].kind])


@needs_c
@pytest.mark.parametrize("name", MIXED_EDITS)
def test_one_fault_in_the_c_of_another_network(tmp_path: Path, name: str) -> None:
    edit = MIXED_EDITS[name]
    expect(MIXED, dumped(MIXED, tmp_path / "c", [edit]), [edit.kind])


@needs_c
@pytest.mark.parametrize("names", TOGETHER, ids=" and ".join)
def test_two_faults_in_c(tmp_path: Path, names: tuple[str, str]) -> None:
    edits = [EDITS[name] for name in names]
    expect(RESIDUAL, dumped(RESIDUAL, tmp_path / "c", edits), [edit.kind for edit in edits])


def test_a_rounding_that_is_left_out() -> None:
    """Batch normalization of the sums themselves, in plain integers."""
    (sums,) = ReferenceEngine(NETWORK).run(STORED, ["conv0/1.conv"]).values()
    steps = {step.name: step for step in NETWORK.steps}
    scale, offset = (NETWORK.parameters[f"batch_norm1/{role}"] for role in ("scale", "offset"))
    last = steps["batch_norm1/3.cast"]

    def fraction(form: TensorFormat) -> int:
        return form.fraction_lengths[0]

    have = fraction(NETWORK.tensors["conv0/1.conv"].format) + fraction(scale.format)
    value = sums * scale.data + (offset.data << (have - fraction(offset.format)))
    form = NETWORK.tensors[last.name].format
    places = have - fraction(form)
    rounded = np.clip((value + (1 << (places - 1))) >> places, form.min, form.max)
    assert not np.array_equal(rounded, RESIDUAL.right()[last.name]), "the test shows nothing"
    found = compare(NETWORK, matched(NETWORK, [Dumped(last.name, rounded)], len(STORED)), STORED)
    assert found.causes[0].kinds == ("rounding left out",)
    assert found.causes[0].whole


@needs_c
def test_an_unknown_fault_has_no_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few sums are wrong: nobody's usual mistake, and nothing is named."""
    monkeypatch.setattr("radixpoint.explaining.compare.PAIRS", 100)
    strange = Edit("", "conv0", r"v = (sums\[c - first\]);", r"v = \1 + 3 * (c == 2) * (x == 1);")
    found = compared(dumped(RESIDUAL, tmp_path / "c", [strange]))
    assert not found.equal
    assert not any(cause.whole for cause in found.causes)


def test_every_fault_changes_the_network() -> None:
    """A copy without faults computes the same; one with a fault that means something does not."""
    same = copied(NETWORK, [])
    assert same is not None
    right = ReferenceEngine(NETWORK).run(STORED, RESULTS)
    again = ReferenceEngine(same).run(STORED, RESULTS)
    assert all(np.array_equal(right[name], again[name]) for name in RESULTS)
    seen = set()
    for fault in faults():
        network = copied(NETWORK, [Planted(fault, None, None)])
        if network is None:
            continue
        values = ReferenceEngine(network).run(STORED, RESULTS)
        if any(not np.array_equal(right[name], values[name]) for name in RESULTS):
            seen.add(fault.kind)
    assert len(seen) >= 11, seen


# ------------------------------------------------------------------------------- what was read or put in


def read_as(change: str) -> Comparison:
    """Dumps without shapes, as a raw file has them, that were written otherwise."""
    values = RESIDUAL.right()
    flat = {}
    for name, x in values.items():
        bits = NETWORK.tensors[name].format.word_length
        changed = x
        match change:
            case "NHWC" if x.ndim == 4:
                changed = np.moveaxis(x, 1, -1)
            case "rows" if x.ndim == 4:
                changed = x.swapaxes(2, 3)
            case "CNHW":
                changed = x.swapaxes(0, 1)
            case "bytes" if bits > 8:
                changed = x.astype("<i2").byteswap().astype(np.int64)
            case "unsigned":
                changed = x & ((1 << bits) - 1)
            case "negated":
                changed = -x
            case "blocks" if x.ndim == 4 and x.shape[1] % 4 == 0:
                cut = x.reshape(len(x), -1, 4, *x.shape[2:])
                changed = np.moveaxis(cut, 2, -1)
            case "left aligned":
                changed = x << (16 - bits)
            case "offset binary":
                changed = x + (1 << (bits - 1))
        flat[name] = np.ascontiguousarray(changed).ravel()
    return compared(flat)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("NHWC", "layout"),
        ("rows", "layout"),
        ("CNHW", "layout"),
        ("bytes", "byte order"),
        ("unsigned", "sign"),
        ("negated", "sign"),
        ("blocks", "layout"),
        ("left aligned", "shift"),
        ("offset binary", "sign"),
    ],
)
def test_dumps_that_were_written_otherwise(change: str, kind: str) -> None:
    found = read_as(change)
    assert not found.equal
    assert found.causes[0].kinds == (kind,)
    assert found.causes[0].whole


PREPARED = Preprocessing(mean=(0.45, 0.5, 0.4), std=(0.25, 0.3, 0.2))
OTHERS = {
    "no mean": {"mean": (0.0, 0.0, 0.0)},
    "no deviation": {"std": (1.0, 1.0, 1.0)},
    "mean reversed": {"mean": (0.4, 0.5, 0.45)},
    "256": {"rescale": 1 / 256},
}


@pytest.mark.parametrize("what", [*OTHERS, "mirrored", "BGR", "order", "truncated"])
def test_images_that_were_prepared_otherwise(what: str) -> None:
    plain = networks.images(4)
    images = ImageSet("pixels", plain.pixels, None, (), PREPARED)
    stored = quantize_images(NETWORK, images.inputs(0, 4))
    put_in, kind = stored, "image"
    if what in OTHERS:
        other = replace(PREPARED, **OTHERS[what])
        put_in, kind = quantize_images(NETWORK, other.normalize(plain.pixels)), "preprocessing"
    elif what == "truncated":
        form = NETWORK.tensors[NETWORK.input].format.channel(0)
        cut = np.floor(np.ldexp(images.inputs(0, 4).astype(float), form.fraction_length))
        put_in, kind = np.clip(cut, form.min, form.max).astype(np.int64), "preprocessing"
    elif what == "order":
        put_in, kind = np.roll(stored, 1, 0), "image order"
    else:
        put_in = stored[..., ::-1] if what == "mirrored" else stored[:, ::-1]
    values = ReferenceEngine(NETWORK).run(np.ascontiguousarray(put_in), RESULTS)
    given = [Dumped(name, values[name]) for name in RESULTS]
    found = compare(NETWORK, matched(NETWORK, given, 4), stored, images)
    assert not found.equal
    assert found.causes[0].kinds == (kind,)
    assert found.causes[0].whole


# ------------------------------------------------------------------------------------------- reading


def written(folder: Path, kind: str) -> Path:
    """The right values of three tensors, in a form of files."""
    values, names = RESIDUAL.right(), [RESULTS[1], RESULTS[5], RESULTS[-1]]
    folder.mkdir()
    if kind == "npz":
        np.savez(folder / "dump.npz", **{name.replace("/", "_"): values[name] for name in names})
        return folder / "dump.npz"
    for name in names:
        tensor, x = NETWORK.tensors[name], values[name]
        path = folder / f"{tensor.value}.{kind.partition(' ')[0]}"
        flat = x.ravel().tolist()
        mask = (1 << tensor.format.word_length) - 1
        match kind:
            case "npy":
                np.save(path, np.moveaxis(x, 1, -1) if x.ndim == 4 else x)
            case "npy real":
                np.save(path, np.ldexp(x.astype(float), -tensor.format.fractions(len(tensor.shape))))
            case "hex":
                path.write_text("// words\n" + "\n".join(f"{v & mask:03x}" for v in flat))
            case "mem 32":
                path.write_text("@0\n" + "\n".join(f"{v & 0xFFFFFFFF:08X}" for v in flat))
            case "csv":
                rows = np.array(flat).reshape(len(STORED), -1)
                path.write_text("\n".join(",".join(map(str, row)) for row in rows.tolist()))
            case "txt":
                path.write_text(" ".join(map(str, flat)))
            case "hex 64":
                path.write_text("\n".join(f"{v & (2**64 - 1):016x}" for v in flat))
            case "bin" | "bin 64":
                path.write_bytes(np.array(flat).astype("<i2" if kind == "bin" else "<i8").tobytes())
    return folder


@pytest.mark.parametrize(
    "kind", ["npz", "npy", "npy real", "hex", "mem 32", "csv", "txt", "bin", "bin 64", "hex 64"]
)
def test_every_form_of_file(kind: str, tmp_path: Path) -> None:
    given = read_dump(written(tmp_path / "dump", kind), word_bytes={"bin": 2, "bin 64": 8}.get(kind))
    found = matched(NETWORK, given, len(STORED))
    assert [match.tensor for match in found] == [RESULTS[1], RESULTS[5], RESULTS[-1]]
    values = RESIDUAL.right()
    for match in found:
        assert np.array_equal(match.values, values[match.tensor])


def test_tensors_without_names() -> None:
    values = RESIDUAL.right()
    last = matched(NETWORK, [Dumped("out", values[RESULTS[-1]])], len(STORED))
    assert (last[0].tensor, last[0].by) == (RESULTS[-1], "shape")
    rest = [Dumped("", values[name]) for name in RESULTS[1:]]
    everything = matched(NETWORK, [Dumped("", STORED), *rest], len(STORED))
    assert [one.tensor for one in everything] == RESULTS
    assert {one.by for one in everything} == {"order"}
    with pytest.raises(DataError, match="expected names such as"):
        matched(NETWORK, [Dumped("x", values["batch_norm1/3.cast"])], len(STORED))
    with pytest.raises(DataError, match="twice"):
        matched(NETWORK, [Dumped("fc15", values[RESULTS[-1]])] * 2, len(STORED))
    with pytest.raises(DataError, match="expected 4 images"):
        matched(NETWORK, [Dumped("fc15", values[RESULTS[-1]][:2])], len(STORED))
    with pytest.raises(DataError, match="expected multiples of"):
        matched(NETWORK, [Dumped("fc15", values[RESULTS[-1]] + 0.3)], len(STORED))


def test_what_may_be_two_things_is_refused(tmp_path: Path) -> None:
    """Whole numbers of a floating-point type, digits with zeros before them, addresses that skip words."""
    values = RESIDUAL.right()[RESULTS[-1]]
    floats = Dumped("fc15", values.astype(float))
    with pytest.raises(DataError, match="expected --form decimal or real"):
        matched(NETWORK, [floats], len(STORED))
    np.save(tmp_path / "fc15.npy", values.astype(float))
    (one,) = matched(NETWORK, read_dump(tmp_path / "fc15.npy", "decimal"), len(STORED))
    assert np.array_equal(one.values, values)
    (one,) = matched(NETWORK, read_dump(tmp_path / "fc15.npy", "real"), len(STORED))
    assert np.array_equal(one.values, values << NETWORK.logit_fraction_length())
    path = tmp_path / "x.txt"
    path.write_text("010 020 030")
    with pytest.raises(DataError, match="expected --form"):
        read_dump(path)
    assert read_dump(path, "hex")[0].values.tolist() == [16, 32, 48]
    assert read_dump(path, "decimal")[0].values.tolist() == [10, 20, 30]
    path.write_text("@0 ff\n01\n@2 02")
    assert read_dump(path)[0].values.tolist() == [255, 1, 2]
    path.write_text("@0 ff\n@10 01")
    with pytest.raises(DataError, match="address @10 behind 1 words"):
        read_dump(path)


def test_another_input_explains_only_what_it_explains() -> None:
    """The dump's own input differs from what was put in, as no other way to prepare it does."""
    values = {**RESIDUAL.right(), NETWORK.input: STORED[::-1] // 2}
    found = compared(values)
    assert found.differences[0].tensor == NETWORK.input
    assert not found.causes


# -------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, IntGraph]:
    path = tmp_path_factory.mktemp("saved") / "network.safetensors"
    save_network(NETWORK, path)
    return path, NETWORK


def test_on_the_command_line(saved: tuple[Path, IntGraph], tmp_path: Path) -> None:
    network, _ = saved
    values = RESIDUAL.right()
    np.savez(tmp_path / "good.npz", **{NETWORK.input: STORED, "fc15": values[RESULTS[-1]]})
    assert "equal: every value" in command("compare", network, tmp_path / "good.npz").stdout
    fault = next(f for f in faults() if f.text == "rounding is TRN")
    wrong = copied(NETWORK, [Planted(fault, None, None)])
    assert wrong is not None
    other = ReferenceEngine(wrong).run(STORED, RESULTS)
    np.savez(tmp_path / "bad.npz", **{NETWORK.input: STORED, **{n: other[n] for n in RESULTS[1:]}})
    said = command("compare", network, tmp_path / "bad.npz", status=1).stdout
    assert "rounding is TRN, everywhere [rounding mode]" in " ".join(said.split())
    as_json = json.loads(command("compare", network, tmp_path / "bad.npz", "--json", status=1).stdout)
    assert as_json["causes"][0]["kinds"] == ["rounding mode"]
    np.save(tmp_path / "fc15.npy", values[RESULTS[-1]])
    np.save(tmp_path / "input.npy", STORED)
    only = ("compare", network, tmp_path / "fc15.npy")
    command(*only, "--input", tmp_path / "input.npy")
    fails("what was put in is not known", *only)
    fails("no tensor or layer", *only, "--input", tmp_path / "input.npy", "--tensor", "nothing")
    fails("expected a folder, or a file", "compare", network, network)
    fails("No such file", "compare", network, tmp_path / "none.npz", "--input", tmp_path / "input.npy")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    fails("cannot be read", "compare", network, tmp_path / "broken.npz", "--input", tmp_path / "input.npy")
