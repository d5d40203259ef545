"""Every export is run and compared with == on every tensor; and what an export does to folders."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import exports
import networks
from radixpoint.arithmetic.formats import Overflow, Rounding, TensorFormat
from radixpoint.cli.main import app, main
from radixpoint.data import load_images, read_classes
from radixpoint.demo import demo_images, demo_network
from radixpoint.engines import quantize_images
from radixpoint.errors import ExportError, RadixpointError
from radixpoint.export import TARGETS, export_network, verify_export
from radixpoint.export.folder import read_manifest
from radixpoint.importers import load
from radixpoint.ir.network import IntGraph
from radixpoint.ir.ops import LAYERS, STEPS
from radixpoint.ir.storage import save_network
from radixpoint.measure.calibrate import calibrate
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize
from test_steps import CHANNELS, Chain, extremes, parameter

pytestmark = pytest.mark.slow("it compiles")

FORMS = list(itertools.product(("affine", "staged", "folded"), ("network", "class", "tensor", "channel")))
MODES = list(itertools.product(Rounding, Overflow))
RUN = ("vectors", "c", "onnx", "qonnx", "hls")
"""Targets that compute; hls4ml's is a configuration."""


def made(case: int, rounding: Rounding, overflow: Overflow) -> IntGraph:
    """A network whose form and scope follow the number of the case."""
    form, scope = FORMS[case % len(FORMS)]
    graph = (networks.residual, networks.mixed, exports.random_network)[case % 3](case)
    pool = "reciprocal" if case % 2 or rounding is Rounding.STOCHASTIC else "division"
    rule = "loss" if scope in ("network", "class") else "max"
    return exports.quantized(
        graph,
        batch_norm=form,
        binary_point={"scope": scope, "rule": rule},
        rounding=rounding.value,
        overflow=overflow.value,
        average_pool=pool,
        seed=case,
    )


def refusals(target: str, rounding: Rounding, overflow: Overflow) -> str | None:
    """Why a target cannot express a mode."""
    if rounding is Rounding.STOCHASTIC and target in ("hls", "qonnx"):
        return "(stochastic|STOCHASTIC)"
    return "WRAP" if overflow is Overflow.WRAP and target == "qonnx" else None


def check(network: IntGraph, target: str, folder: Path, refusal: str | None) -> None:
    if refusal is not None:
        with pytest.raises(ExportError, match=rf"layer '.*{refusal}"):
            export_network(network, target, folder / "x")
        assert not list(folder.iterdir())
        return
    result = exports.verified(network, target, folder)
    assert result.mismatch is None
    assert {x.layer for x in result.layers} == {t.layer for t in network.tensors.values()}
    assert result.images == 4


@pytest.mark.parametrize("target", [t for t in RUN if t != "hls"])
@pytest.mark.parametrize(("case", "mode"), list(enumerate(MODES)))
def test_every_mode_form_and_scope(
    target: str, case: int, mode: tuple[Rounding, Overflow], tmp_path: Path
) -> None:
    check(made(case, *mode), target, tmp_path, refusals(target, *mode))


ROUNDINGS = [r for r in Rounding if r is not Rounding.STOCHASTIC]
OVERFLOWS = (Overflow.SAT, Overflow.SAT_SYM, Overflow.WRAP, Overflow.WRAP)
HLS_CASES = [(case, ROUNDINGS[case % 7], OVERFLOWS[case % 4]) for case in range(12)]


@pytest.mark.parametrize(("case", "rounding", "overflow"), HLS_CASES)
def test_every_mode_form_and_scope_in_hls(
    case: int, rounding: Rounding, overflow: Overflow, tmp_path: Path
) -> None:
    """Each form with each scope, each rounding, each overflow, both flavours."""
    check(made(case, rounding, overflow), "hls", tmp_path, None)


def test_hls_refuses_what_its_types_cannot_say(tmp_path: Path) -> None:
    check(made(0, Rounding.STOCHASTIC, Overflow.SAT), "hls", tmp_path, "STOCHASTIC")


def test_the_cases_hold_every_operator() -> None:
    cases = [made(case, Rounding.RND, Overflow.SAT) for case in range(12)]
    cases.append(exports.quantized(networks.varied()))
    assert {s.op for network in cases for s in network.steps} == set(STEPS)
    graphs = [networks.residual(), networks.mixed(), networks.varied()]
    graphs += [exports.random_network(c) for c in range(2, 12, 3)]
    assert {layer.op for graph in graphs for layer in graph.layers} == set(LAYERS)


@pytest.mark.parametrize("target", RUN)
def test_functions_gates_and_moves(target: str, tmp_path: Path) -> None:
    check(exports.quantized(networks.varied()), target, tmp_path, None)


@pytest.mark.parametrize("target", RUN)
@pytest.mark.parametrize("scope", ["tensor", "channel"])
def test_unsigned_operands(target: str, scope: str, tmp_path: Path) -> None:
    point = {"scope": scope, "rule": "percentile"}
    network = exports.quantized(networks.mixed(), conv=8, unsigned=True, binary_point=point)
    assert any(not t.format.signed for t in network.tensors.values())
    check(network, target, tmp_path, None)


@pytest.mark.parametrize("target", RUN)
@pytest.mark.parametrize("scope", ["tensor", "channel"])
def test_what_training_switched_off(target: str, scope: str, tmp_path: Path) -> None:
    network = exports.switched_off(scope)
    places = [
        max(network.tensors[s.inputs[0]].format.fraction_lengths)
        - min(network.tensors[s.name].format.fraction_lengths)
        - network.tensors[s.inputs[0]].format.word_length
        for s in network.steps
        if s.op == "cast"
    ]
    assert max(places) > 0
    check(network, target, tmp_path, "(float64 holds 53 bits|computes scales)" if target == "qonnx" else None)


@pytest.mark.parametrize("target", RUN)
def test_narrow_accumulators_wrap(target: str, tmp_path: Path) -> None:
    network = exports.quantized(networks.mixed(), accumulator={"word_length": 12, "overflow": "WRAP"})
    assert any(s.op == "cast" and s.attributes["overflow"] == "WRAP" for s in network.steps)
    check(network, target, tmp_path, "WRAP" if target == "qonnx" else None)


WIDE = [
    ((-30,), 31),
    ((0, 1, 8), 32),
    ((-9, -2, 3), 9),
    ((-20, 1, 20), 24),
    ((62,), 5),
    ((7,), 12),
    ((1, 2, 3), 2),
]


@pytest.mark.parametrize("target", ["vectors", "c", "onnx"])
@pytest.mark.parametrize(("number", "mode"), list(enumerate(MODES)))
def test_wide_and_odd_formats(
    target: str, number: int, mode: tuple[Rounding, Overflow], tmp_path: Path
) -> None:
    """Casts at the ends of 64 bits, left and right by channel, that networks seldom reach."""
    rounding, overflow = mode
    for word in (32, 7):
        chain = Chain(word, 0, (CHANNELS, 2, 2))
        chain.step("scale", factor=parameter(30, (3, 0, 12), (CHANNELS, 1, 1), number))
        for fractions, narrow in WIDE[number % 7 :][:2]:
            chain.cast(TensorFormat(True, narrow, fractions), rounding.value, overflow.value)
        graph = chain.closed()
        images = extremes(word, (CHANNELS, 2, 2), number)
        try:
            export_network(graph, target, tmp_path / f"x{word}", images)
        except ExportError as error:
            assert target == "onnx" and re.search("int64 operators cannot express it", str(error))  # noqa: PT017, PT018
            continue
        result = verify_export(tmp_path / f"x{word}")
        assert result.mismatch is None


# ------------------------------------------------------------------------------------- the real thing


def shared_network() -> tuple[IntGraph, np.ndarray]:
    graph = load(str(DATA / "resnet50-tiny-imagenet.safetensors"), (3, 64, 64))
    classes = read_classes(str(DATA / "wnids.txt"))
    calibration = load_images(str(DATA / "images-calibration.tar"), None, classes).first(100)
    network = quantize(graph, calibrate(graph, calibration), Design.separate(conv=10, bn=14))
    images = load_images(str(DATA / "images-search.tar"), None, classes).first(20)
    return network, quantize_images(network, images.inputs(0, 20))


DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}: the full-width ResNet-50 is NOT exported")
def test_full_resnet50_in_c(tmp_path: Path) -> None:
    """20 images, every tensor, undefined behaviour trapped."""
    network, images = shared_network()
    export_network(network, "c", tmp_path / "x", images)
    result = verify_export(tmp_path / "x")
    assert result.mismatch is None
    assert result.images == 20
    assert len(result.layers) == len({t.layer for t in network.tensors.values()})


@pytest.fixture(scope="module")
def demo() -> IntGraph:
    graph = demo_network()
    return quantize(graph, calibrate(graph, demo_images("calibration")), Design.separate(conv=10, bn=13))


def test_demo_in_c_on_all_images(demo: IntGraph, tmp_path: Path) -> None:
    images = demo_images("test")
    export_network(demo, "c", tmp_path / "x")
    batches = lambda network: (quantize_images(network, b) for b in images.batches(500))  # noqa: E731
    result = verify_export(tmp_path / "x", batches)
    assert result.mismatch is None
    assert result.more_images == 10_000


@pytest.mark.parametrize("target", ["hls", "qonnx", "onnx", "vectors"])
def test_demo_in_every_target(demo: IntGraph, target: str, tmp_path: Path) -> None:
    count = 1 if target == "qonnx" else 2  # qonnx runs node by node in Python: two minutes an image
    images = quantize_images(demo, demo_images("test").inputs(0, count))
    export_network(demo, target, tmp_path / "x", images)
    result = verify_export(tmp_path / "x")
    assert result.mismatch is None
    layers = [x.layer for x in result.layers if x.engine == result.layers[0].engine]
    assert len(layers) == len({t.layer for t in demo.tensors.values()}) > 53 + 53


# ------------------------------------------------------------------------------------------- C itself


def test_c_needs_nothing() -> None:
    network = made(1, Rounding.RND, Overflow.SAT)
    files = TARGETS["c"].files(network, np.zeros(0), {})
    code = b"".join(files[n] for n in ("network.c", "network.h", "radixpoint.h", "parameters.c")).decode()
    included = {"<stdint.h>", '"network.h"', '"radixpoint.h"'}
    on_arm = {"<arm_acle.h>", '"radixpoint_dsp.h"'}  # the compiler's own header, and one for DSP instructions
    assert set(re.findall(r"#include\s+(\S+)", code)) == included | on_arm
    here = subprocess.run(
        ["cc", "-E", "-x", "c", "-"], input=files["radixpoint.h"], capture_output=True, check=True
    )
    assert b"arm_acle" not in here.stdout
    assert b"dsp" not in here.stdout
    without_comments = re.sub(r"/\*.*?\*/", "", code, flags=re.S)
    assert not re.search(r"\b(float|double|malloc|calloc|free|printf|long|size_t)\b", without_comments)


@pytest.mark.parametrize("parameters", ["arrays", "blob"])
def test_c_parameters_as_arrays_or_blob(parameters: str, tmp_path: Path) -> None:
    network = made(4, Rounding.RND, Overflow.SAT)
    result = exports.verified(network, "c", tmp_path, options={"parameters": parameters})
    assert result.mismatch is None


@pytest.mark.parametrize("memory", ["hex", "coe", "mif", "raw", "hex+coe+mif+raw"])
def test_vectors_in_every_form_of_memory(memory: str, tmp_path: Path) -> None:
    network = made(4, Rounding.RND, Overflow.SAT)
    result = exports.verified(network, "vectors", tmp_path, options={"memory": memory})
    assert result.mismatch is None
    compared = {x.engine for x in result.layers}
    assert compared == {f"{w}, {f}" for w in ("parameters", "tensors") for f in ["npz", *memory.split("+")]}


# ---------------------------------------------------------------------------------------------- names

NAMES = [
    'quote"\'s', "slash/back\\slash", "new\nline", "int", "for", "x" * 300, "a.b", "a-b", "a_b",
    "*/ evil(); /*", "??/", "//", "%s%n", "$(touch pwned)", "`touch pwned`", "\u0131\u2028\u202e", "",
    " ", "#define x",
    "\\\n#error", "</script>", "a;b", "0", "p", "main", "RX_TRACE", "\x00\x07",
]  # fmt: skip


def renamed(network: IntGraph, names: list[str]) -> IntGraph:
    """Layers named by ``names`` in turn; tensors and parameters keep their layer's name in theirs."""
    from dataclasses import replace

    layers = list(dict.fromkeys(network.tensors[s.name].layer for s in network.steps))
    new = {
        layer: names[i % len(names)] + (str(i) if i >= len(names) else "") for i, layer in enumerate(layers)
    }

    def tensor(name: str) -> str:
        layer = network.tensors[name].layer
        return name if name == network.input else new[layer] + name[len(layer) :]

    def key(name: str) -> str:
        layer, slash, role = name.rpartition("/")
        return new[layer] + slash + role

    return replace(
        network,
        tensors={tensor(n): replace(t, layer=new.get(t.layer, t.layer)) for n, t in network.tensors.items()},
        steps=tuple(
            replace(
                s,
                name=tensor(s.name),
                inputs=tuple(map(tensor, s.inputs)),
                parameters={r: key(k) for r, k in s.parameters.items()},
            )
            for s in network.steps
        ),
        output=tensor(network.output),
        parameters={key(k): p for k, p in network.parameters.items()},
    )


@pytest.mark.parametrize("target", RUN)
@pytest.mark.parametrize("first", [0, 9, 18])
def test_names_cannot_break_code(
    target: str, first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = renamed(made(1, Rounding.RND, Overflow.SAT), NAMES[first:] + NAMES[:first])
    result = exports.verified(network, target, tmp_path)
    assert result.mismatch is None
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("seed", range(6))
def test_fuzzed_names(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    alphabet = list("aZ09_ \"'\\/*?%$`;{}()<>#\n\r\t.,\u00e9\u4e2d\U0001f600")
    names = ["".join(random.choice(alphabet, random.integers(0, 40))) for _ in range(40)]
    network = renamed(made(1, Rounding.RND, Overflow.SAT), list(dict.fromkeys(names)))
    for target in ("c", "onnx", "vectors"):
        assert exports.verified(network, target, tmp_path).mismatch is None


def test_identifiers_are_all_that_reaches_code() -> None:
    network = renamed(made(1, Rounding.RND, Overflow.SAT), ["evil", "PWNED*/"])
    for target in ("c", "hls"):
        for name, data in TARGETS[target].files(network, np.zeros(0), {}).items():
            assert b"PWNED*/" not in data, name
            assert data.isascii(), name


# -------------------------------------------------------------------------------------------- folders


def tree(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("target", list(TARGETS))
def test_the_same_input_gives_the_same_bytes(target: str, tmp_path: Path) -> None:
    network = exports.quantized(networks.residual())
    save_network(network, tmp_path / "n.safetensors")
    export_network(network, target, tmp_path / "a")
    code = (
        "import sys; from radixpoint.export import export_network; "
        "from radixpoint.ir.storage import load_network; "
        "export_network(load_network(sys.argv[1]), sys.argv[2], sys.argv[3])"
    )
    again = [sys.executable, "-c", code, str(tmp_path / "n.safetensors"), target, str(tmp_path / "b")]
    subprocess.run(again, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert tree(tmp_path / "a") == tree(tmp_path / "b") != {}


def test_an_unchanged_export_is_replaced(tmp_path: Path) -> None:
    small, other = exports.quantized(networks.residual()), exports.quantized(networks.mixed())
    export_network(small, "c", tmp_path / "x")
    export_network(other, "onnx", tmp_path / "x")
    assert read_manifest(tmp_path / "x").target == "onnx"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_anything_else_is_never_overwritten(tmp_path: Path) -> None:
    network = exports.quantized(networks.residual())
    out = tmp_path / "x"
    out.write_text("mine")
    with pytest.raises(ExportError, match="is no folder"):
        export_network(network, "c", out)
    assert out.read_text() == "mine"
    out.unlink()
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(ExportError, match=r"thesis\.tex"):
        export_network(network, "c", out)
    (out / "thesis.tex").unlink()
    export_network(network, "c", out)  # an empty folder is no loss
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"notes\.txt.*no export wrote"):
        export_network(network, "c", out)
    (out / "notes.txt").unlink()
    with (out / "network.c").open("a") as handle:
        handle.write("/* tuned by hand */\n")
    with pytest.raises(ExportError, match=r"network\.c was changed"):
        export_network(network, "c", out)
    assert "tuned by hand" in (out / "network.c").read_text()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ExportError, match="is no folder"):
        export_network(network, "c", link)


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = exports.quantized(networks.residual())
    export_network(network, "c", tmp_path / "old")
    before = tree(tmp_path)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for name in ("new", "old"):
        with pytest.raises(ExportError, match="No space left"):
            export_network(network, "c", tmp_path / name)
    assert tree(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_a_missing_tool_is_not_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = exports.quantized(networks.residual())
    for target, missing in (("c", "cc, gcc, clang"), ("hls", r"c\+\+, g\+\+, clang\+\+")):
        export_network(network, target, tmp_path / target)
        with monkeypatch.context() as context:
            context.setenv("PATH", str(tmp_path))
            context.delenv("CC", raising=False)
            context.delenv("CXX", raising=False)
            with pytest.raises(ExportError, match=f"needs a compiler: none of {missing}"):
                verify_export(tmp_path / target)
    monkeypatch.setattr("radixpoint.export.hls.find_spec", lambda name: None)
    with pytest.raises(ExportError, match="needs the open headers of ap_fixed"):
        verify_export(tmp_path / "hls")
    export_network(network, "qonnx", tmp_path / "qonnx")
    monkeypatch.setitem(sys.modules, "qonnx.core.modelwrapper", None)
    with pytest.raises(ExportError, match="needs the package qonnx"):
        verify_export(tmp_path / "qonnx")
    export_network(network, "hls4ml", tmp_path / "hls4ml")
    with pytest.raises(ExportError, match="a configuration computes nothing"):
        verify_export(tmp_path / "hls4ml")


NOT_RUN = ("CMakeLists.txt", "README.md", "radixpoint_dsp.h")
"""Files that 'verify' does not need here; 'verify --strict' sees that they are as they were."""


def test_garbage_in_a_folder_is_one_error(tmp_path: Path) -> None:
    """Every file of every export, cut short or overwritten: found to differ, or one clear error."""
    network = exports.quantized(networks.residual())
    for target in ("vectors", "c", "onnx", "qonnx"):
        out = tmp_path / target
        export_network(
            network, target, out, options={"memory": "hex+coe+mif+raw"} if target == "vectors" else {}
        )
        chosen = [p for p in sorted(out.rglob("*")) if p.is_file()]
        seen: set[str] = set()
        for path in chosen:
            kind = f"{path.parent.name}{path.suffix}"
            if (kind in seen and target == "vectors") or path.name in NOT_RUN:
                continue
            seen.add(kind)
            whole = path.read_bytes()
            for broken in (whole[: len(whole) // 2], b"", b"\x80garbage\n" * 3):
                path.write_bytes(broken)
                try:
                    found = verify_export(out).mismatch is not None
                except RadixpointError:
                    found = True
                assert found or path.name in ("harness.c", "network.h"), (path, len(broken))
            path.unlink()
            with pytest.raises(RadixpointError):
                verify_export(out)
            path.write_bytes(whole)
        assert verify_export(out).mismatch is None
    for images in (np.zeros((1, 3, 12, 12)), np.full((1, 3, 12, 12), 1 << 20), np.zeros((0, 3, 12, 12), int)):
        with pytest.raises(ExportError, match="images: "):
            export_network(network, "c", tmp_path / "none", images)
    assert not (tmp_path / "none").exists()


def test_networks_of_odd_structure(tmp_path: Path) -> None:
    """A tensor used twice, an input read by several layers, one pixel, a layer that only pads."""
    n = networks.Net(3, (3, 1, 1))
    a = n.conv("input", 3, 3, bias=True)
    x = n.add(a, a)
    x = n.concat(x, x, n.conv("input", 2, 1, pads=(0, 0, 0, 0)))
    x = n.simple("relu", n.add(x, n.bn(n.conv(x, 8, 1, pads=(2, 2, 2, 2), strides=(5, 5)))))
    graph = n.graph(n.fc(n.simple("flatten", x), 8, 7))
    for target in RUN:
        network = exports.quantized(graph)
        assert exports.verified(network, target, tmp_path).mismatch is None


# --------------------------------------------------------------------------------------- command line


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = CliRunner().invoke
    save_network(exports.quantized(networks.residual()), tmp_path / "n.safetensors")
    network, out = str(tmp_path / "n.safetensors"), str(tmp_path / "x")
    done = run(app, ["export", network, "--to", "c", "-o", out, "--option", "parameters=blob"])
    assert done.exit_code == 0, done.output
    done = run(app, ["verify", out])
    assert done.exit_code == 0, done.output
    assert "equal: every tensor of 4 images" in done.output
    blob = bytearray((tmp_path / "x" / "parameters.bin").read_bytes())
    blob[len(blob) // 2] ^= 1
    (tmp_path / "x" / "parameters.bin").write_bytes(blob)
    done = run(app, ["verify", out])
    assert done.exit_code == 1, done.output
    assert "parameters.bin: changed since the export" in done.output
    assert "first difference: layer" in done.output
    assert run(app, ["verify", out, "--json"]).exit_code == 1

    def fails(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["radixpoint", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    said = fails("export", network, "--to", "cobol", "-o", out + "2")
    assert "'cobol' is not one of 'vectors', 'c'" in said
    assert "name=value" in fails("export", network, "--to", "c", "-o", out + "2", "--option", "blob")
    assert "expected arrays or blob" in fails(
        "export", network, "--to", "c", "-o", out + "2", "--option", "parameters=x"
    )
    assert "unknown option" in fails("export", network, "--to", "onnx", "-o", out + "2", "--option", "a=b")
    assert "no export" in fails("verify", str(tmp_path))
    assert "was changed since its export" in fails("export", network, "--to", "c", "-o", out)
    (tmp_path / "x" / "manifest.json").write_text("{")
    assert "manifest.json" in fails("verify", out)
    assert not (tmp_path / "x2").exists()
