"""The hardware modules, each in its testbench against exact rationals; small widths exhaustively."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import oracle
from radixpoint.accelerator.machine import MODULES, ROUNDINGS
from radixpoint.accelerator.synthesis import rtl
from radixpoint.export.verilog import verilate

pytestmark = pytest.mark.slow("it compiles")

BENCHES = Path(__file__).parent / "rtl"
WARNINGS = "BLKSEQ PINCONNECTEMPTY UNUSEDSIGNAL PROCASSINIT STMTDLY WIDTHEXPAND"
Rows = list[tuple[int, ...]]
Change = tuple[str, str, str]


def simulate(
    bench: str,
    rows: Sequence[Sequence[object]],
    folder: Path,
    change: Change | None = None,
    **parameters: int,
) -> Rows:
    """What the testbench answers to each row; ``change``: (file, old text, new text) planted in a module."""
    text = (BENCHES / f"{bench}_tb.v").read_text()
    (folder / "testbench.v").write_text(
        "".join(f"// verilator lint_off {w}\n" for w in WARNINGS.split()) + text
    )
    for name in MODULES:
        source = rtl(name)
        if change is not None and change[0] == name:
            assert source.count(change[1]) >= 1
            source = source.replace(change[1], change[2], 1)
        (folder / name).write_text(source)
    used = [folder / name for name in ("testbench.v", *USED[bench])]
    program = verilate(used, folder / "made", parameters)
    (folder / "in.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    subprocess.run([program], cwd=folder, check=True, capture_output=True)
    answers = [tuple(map(int, line.split())) for line in (folder / "out.txt").read_text().splitlines()]
    assert len(answers) == len(rows)
    return answers


USED = {
    "cast": ("rx_cast.v", "rx_round.v", "rx_limit.v"),
    "array": ("rx_array.v", "rx_dot.v", "rx_sums.v"),
    "batch_norm": ("rx_batch_norm.v", "rx_offset.v"),
    "add": ("rx_add.v",),
    "pool": ("rx_pool.v",),
    "divide": ("rx_divide.v", "rx_round.v", "rx_limit.v"),
}


def bounds(signed: bool, word: int, mode: str) -> tuple[int, int]:
    low, high = oracle.limits(signed, word)
    return (-high if mode == "SAT_SYM" and signed else low), high


# ---------------------------------------------------------------------------------------------- casts


def conversions(words: Iterable[tuple[bool, int]]) -> list[tuple[int, bool, int, str]]:
    return [
        (number, signed, word, mode)
        for number in range(7)
        for signed, word in words
        for mode in ("SAT", "SAT_SYM", "WRAP")
    ]


def cast_rows(
    xs: Iterable[int], shifts: Iterable[int], kinds: list[tuple[int, bool, int, str]]
) -> tuple[Rows, Rows]:
    rows, expected = list[tuple[int, ...]](), list[tuple[int, ...]]()
    for x, shift, (number, signed, word, mode) in itertools.product(xs, shifts, kinds):
        rows.append((x, shift, number, *bounds(signed, word, mode), int(mode == "WRAP"), 0))
        value = Fraction(x) / Fraction(2) ** shift
        expected.append((oracle.convert(value, signed, word, 0, ROUNDINGS[number].value, mode),))
    return rows, expected


SMALL = [(True, 2), (True, 3), (True, 4), (False, 1), (False, 2), (False, 3)]


def small_casts() -> tuple[Rows, Rows]:
    return cast_rows(range(-32, 32), range(-4, 10), conversions(SMALL))


def test_cast_exhaustively(tmp_path: Path) -> None:
    """6 bits to every format of up to 4, shifts -4..9, every rounding and overflow."""
    rows, expected = small_casts()
    assert len(rows) == 64 * 14 * 7 * 18
    assert simulate("cast", rows, tmp_path, IN=6, OUT=4, SHIFT=5, LEFT=4) == expected


@pytest.mark.parametrize(("bits", "out", "left"), [(40, 13, 0), (4, 12, 3), (13, 13, 2), (63, 32, 1)])
def test_cast_at_the_ends_and_at_random(bits: int, out: int, left: int, tmp_path: Path) -> None:
    random = np.random.default_rng(bits)
    top = 2 ** (bits - 1)
    xs = {-top, -top + 1, -1, 0, 1, top - 1, top - 2, *(int(x) for x in random.integers(-top, top, 8))}
    xs |= {s * ((2 * k + 1) << b) // 2 for b in range(bits - 2) for k in (0, 1, 3) for s in (-1, 1)}
    held = sorted(x for x in xs if -top <= x < top)
    held = held[:: max(1, len(held) // 40)]
    shifts = sorted(
        {-left, 0, 1, 2, bits - 2, bits - 1, bits, bits + 1, *random.integers(0, bits, 4).tolist()}
    )
    rows, expected = cast_rows(held, shifts, conversions([(True, out), (False, out - 1), (True, 2)]))
    assert simulate("cast", rows, tmp_path, IN=bits, OUT=out, SHIFT=8, LEFT=left) == expected


@pytest.mark.parametrize(("bits", "left"), [(6, 3), (40, 0)])
def test_stochastic_cast(bits: int, left: int, tmp_path: Path) -> None:
    """Up if and only if the draw is less than the fraction that is cut off; draws beside every fraction."""
    random = np.random.default_rng(bits)
    top = 2 ** (bits - 1)
    xs = range(-top, top) if bits < 8 else [-top, top - 1, -1, 0, 1, *random.integers(-top, top, 20).tolist()]
    rows, expected = list[tuple[int, ...]](), list[tuple[int, ...]]()
    for x, shift, (signed, word) in itertools.product(
        xs, (-left, 0, 1, 3, 20, 63, 64), ((True, 4), (False, 3))
    ):
        fraction = Fraction(x, 2**shift) % 1 if shift > 0 else Fraction(0)
        edge = int(fraction * 2**64)
        for draw in {0, max(edge - 1, 0), edge, min(edge + 1, 2**64 - 1), 2**64 - 1}:
            rows.append((x, shift, 7, *oracle.limits(signed, word), 0, f"{draw:x}"))
            value = Fraction(x) / Fraction(2) ** shift
            expected.append((oracle.convert(value, signed, word, 0, "STOCHASTIC", "SAT", draw),))
    assert simulate("cast", rows, tmp_path, IN=bits, OUT=4, SHIFT=8, LEFT=left, STOCHASTIC=1) == expected


# ------------------------------------------------------------------------------- multiply-accumulate


def array_rows(
    x: int, w: int, acc: int, taps: Iterable[tuple[int, ...]], places: int = 1
) -> tuple[Rows, Rows]:
    """Windows of two taps, those of so many places in turn; the second tap is in padding every third time.

    Every second window is followed by a pause.
    """
    rows: Rows = []
    expected: Rows = []

    def wrap(value: int) -> int:
        return (value + 2 ** (acc - 1)) % 2**acc - 2 ** (acc - 1)

    numbered = enumerate(taps)
    while group := list(itertools.islice(numbered, places)):
        for place, (number, (x0, x1, w0, w1)) in enumerate(group):
            rows.append((1, 1, 0, 1, place, x0, x1, w0, w1, w1, w1))
            rows += [(0, 1, 1, 1, 0, x0, x0, w0, w0, w0, w0)] * (number % 5 == 0 and places > 1)
        for place, (number, (x0, x1, w0, w1)) in enumerate(group):
            counts = int(number % 3 != 0)
            sums = [x0 * w0 + x1 * w1, x0 * w1 + x1 * w1]
            rows.append((1, 0, 1, counts, place, x1, x0, w1, w0, w0, w0))
            if counts:
                sums = [sums[0] + x1 * w1 + x0 * w0, sums[1] + x1 * w0 + x0 * w0]
            rows += [(0, 1, 1, 1, place, x0, x0, w0, w0, w0, w0)] * (number % 2)
            expected.append(tuple(map(wrap, sums)))
    rows += [(0,) * 11] * 4
    return rows, expected


def sums_of(answers: Rows) -> Rows:
    return [row[1:] for row in answers if row[0]]


def small_taps() -> list[tuple[int, ...]]:
    return list(itertools.product(range(-4, 4), range(-4, 4), range(-4, 4), range(-4, 4)))


@pytest.mark.parametrize("places", [1, 2, 3, 8])
def test_array_exhaustively(places: int, tmp_path: Path) -> None:
    """Two by two lanes of 3 x 3 bits: all operands; with several places, their windows in turn."""
    rows, expected = array_rows(3, 3, 9, small_taps(), places)
    sizes = {"PLACES": places, "PLACE": max(1, (places - 1).bit_length())}
    assert sums_of(simulate("array", rows, tmp_path, X=3, W=3, ACC=9, **sizes)) == expected


@pytest.mark.parametrize(("x", "w", "acc"), [(16, 16, 35), (4, 12, 12), (10, 10, 14), (2, 16, 20)])
def test_array_at_random(x: int, w: int, acc: int, tmp_path: Path) -> None:
    """Accumulators that are too narrow wrap, as the low bits of the exact sum."""
    random = np.random.default_rng(acc)
    ends = {"x": [-(2 ** (x - 1)), 2 ** (x - 1) - 1], "w": [-(2 ** (w - 1)), 2 ** (w - 1) - 1]}
    taps = list(itertools.product(ends["x"], ends["x"], ends["w"], ends["w"]))
    taps += [
        (*random.integers(ends["x"][0], ends["x"][1] + 1, 2).tolist(),
         *random.integers(ends["w"][0], ends["w"][1] + 1, 2).tolist())
        for _ in range(500)
    ]  # fmt: skip
    rows, expected = array_rows(x, w, acc, taps)
    assert sums_of(simulate("array", rows, tmp_path, X=x, W=w, ACC=acc)) == expected


# ------------------------------------------------------- batch normalization, addition, pooling, division


def batch_norm_rows() -> tuple[Rows, Rows]:
    rows, expected = list[tuple[int, ...]](), list[tuple[int, ...]]()
    signed3 = range(-4, 4)
    for use in itertools.product((0, 1), repeat=3):
        for x, factor, centre in itertools.product(range(-8, 8), signed3, signed3):
            offset, a, b = (x + centre) % 8 - 4, factor % 4 - 1, centre % 4 - 1
            rows.append((*use, x, centre, a, factor, offset, b))
            centred = (x << max(-a, 0)) + (centre << max(a, 0)) if use[0] else x
            scaled = centred * factor if use[1] else centred
            y = (scaled << max(-b, 0)) + (offset << max(b, 0)) if use[2] else scaled
            expected.append((centred, scaled, y))
    return rows, expected


def test_batch_norm_exhaustively(tmp_path: Path) -> None:
    """4 bits times 3 bits, every use of its three parts, alignments in both directions."""
    rows, expected = batch_norm_rows()
    assert simulate("batch_norm", rows, tmp_path, PATH=14, MUL=8, FACTOR=3, OFFSET=3, SHIFT=4) == expected


def add_rows() -> tuple[Rows, Rows]:
    rows: Rows = []
    expected: Rows = []
    for x, y, a, b in itertools.product(range(-8, 8), range(-8, 8), range(4), range(4)):
        rows += [(1, 1, x, a, b), (0, 1, y, b, a), (1, 0, y, a, b)]
        expected += [(x << a,), (x << a,), ((x << a) + (y << b),)]
    return rows, expected


def test_add_exhaustively(tmp_path: Path) -> None:
    rows, expected = add_rows()
    assert simulate("add", rows, tmp_path, IN=4, OUT=9, SHIFT=3) == expected


def pool_rows() -> tuple[Rows, Rows]:
    """Windows of three taps of which some are padding; the last answer of each."""
    rows: Rows = []
    expected: Rows = []
    for maximum, counts in itertools.product((0, 1), itertools.product((0, 1), repeat=3)):
        if not any(counts):
            continue
        for values in itertools.product(range(-8, 8, 3), range(-8, 8), range(-8, 8)):
            kept: list[int] = []
            for place, (x, there) in enumerate(zip(values, counts, strict=True)):
                rows.append((1, int(place == 0), there, maximum, x))
                kept += [x] * there
                nothing = -128 if maximum else 0
                expected.append((max(kept, default=nothing) if maximum else sum(kept),))
    return rows, expected


def test_pool_exhaustively(tmp_path: Path) -> None:
    rows, expected = pool_rows()
    assert simulate("pool", rows, tmp_path, IN=4, OUT=8) == expected


def divide_rows() -> tuple[Rows, Rows]:
    rows, expected = list[tuple[int, ...]](), list[tuple[int, ...]]()
    kinds = conversions([(True, 5), (False, 3)])
    for x, divisor, shift in itertools.product(range(-32, 32), (1, 2, 3, 4, 7, 15), (-3, 0, 2)):
        for number, signed, word, mode in kinds[(x + divisor) % 2 :: 2]:
            rows.append((x, divisor, shift, number, *bounds(signed, word, mode), int(mode == "WRAP")))
            value = Fraction(x, divisor) / Fraction(2) ** shift
            expected.append((oracle.convert(value, signed, word, 0, ROUNDINGS[number].value, mode), 15))
    return rows, expected


def test_divide_exhaustively(tmp_path: Path) -> None:
    rows, expected = divide_rows()
    assert simulate("divide", rows, tmp_path, IN=6, OUT=5, DIVISOR=4, SHIFT=4, BITS=14) == expected


# ---------------------------------------------------------------------------------------- planted errors

PLANTED: list[tuple[str, Callable[[], tuple[Rows, Rows]], dict[str, int], Change | None]] = [
    ("cast", small_casts, {}, ("rx_round.v", "3'd2: up = half;", "3'd2: up = half & rest;")),
    ("cast", small_casts, {}, ("rx_round.v", "half & (rest | floor[0])", "half & (rest | ~floor[0])")),
    ("cast", small_casts, {}, ("rx_cast.v", "WIDE + 1) {1'b1}} << right", "WIDE + 1) {1'b1}} << 1 << right")),
    ("cast", small_casts, {}, ("rx_limit.v", "x > top ? high", "x >= top ? top[OUT-1:0] - 1'b1")),
    ("cast", small_casts, {}, ("rx_limit.v", "kept | ~mask : kept", "kept : kept")),
    ("array", lambda: array_rows(3, 3, 9, small_taps()), {"ACC": 9},
     ("rx_dot.v", "added_first ? added : sum + added", "added_first ? sum : sum + added")),
    ("array", lambda: array_rows(3, 3, 9, small_taps()), {"ACC": 6}, None),
    ("array", lambda: array_rows(3, 3, 9, small_taps()), {"ACC": 9},
     ("rx_array.v", "counts ? x", "!counts ? x")),
    ("array", lambda: array_rows(3, 3, 9, small_taps(), 3), {"ACC": 9, "PLACES": 3, "PLACE": 2},
     ("rx_sums.v", "sums[place] <= next", "sums[0] <= next")),
    ("batch_norm", batch_norm_rows, {"PATH": 14, "MUL": 8}, ("rx_offset.v", "? -align :", "? ~align :")),
    ("batch_norm", batch_norm_rows, {"PATH": 14, "MUL": 8},
     ("rx_batch_norm.v", "use_factor ?", "!use_factor ?")),
    ("add", add_rows, {}, ("rx_add.v", "first ? align_first", "!first ? align_first")),
    ("pool", pool_rows, {}, ("rx_pool.v", "wide > so_far ? wide", "wide < so_far ? wide")),
    ("divide", divide_rows, {}, ("rx_divide.v", "next >= by", "next > by")),
    ("divide", divide_rows, {}, ("rx_divide.v", "exact ? -quotient : ~quotient", "-quotient")),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(PLANTED)))
def test_planted_error_is_found(number: int, tmp_path: Path) -> None:
    bench, rows_of, parameters, change = PLANTED[number]
    rows, expected = rows_of()
    got = simulate(bench, rows, tmp_path, change, **parameters)
    assert (sums_of(got) if bench == "array" else got) != expected
