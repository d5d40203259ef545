"""The command line: what it prints, and that every bad input is one clear error with exit status 2."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import networks
from radixpoint.cli.main import COMMANDS
from radixpoint.errors import DesignError
from radixpoint.ir.storage import save_network
from radixpoint.measure.float_model import to_onnx
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize

pytestmark = pytest.mark.slow("it starts many processes")


def run(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-c", "from radixpoint.cli.main import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == status, result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    return result


def fails(message: str, *arguments: str | Path) -> None:
    result = run(*arguments, status=2)
    flat = " ".join(result.stderr.split())
    assert flat.startswith("error: ") or "Usage" in flat, flat
    assert message in flat, flat
    assert result.stdout == ""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    graph = networks.balanced()
    onnx.save(to_onnx(graph, [graph.output]), folder / "model.onnx")
    for name, count, seed in (("images", 600, 1), ("calibration", 64, 2)):
        images = networks.labelled(graph, count, seed)
        np.savez(folder / f"{name}.npz", images=images.pixels, labels=images.labels)
    (folder / "p.json").write_text('{"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}')
    (folder / "design.json").write_bytes(Design.separate(8, 12).to_json())
    return folder


def sources(files: Path) -> list[str | Path]:
    return [
        files / "model.onnx",
        "--images",
        files / "images.npz",
        "--calibration",
        files / "calibration.npz",
        "--preprocessing",
        files / "p.json",
    ]


SLOW_TO_IMPORT = {
    "PIL",
    "google",
    "highspy",
    "jinja2",
    "mpmath",
    "onnx",
    "onnxruntime",
    "pandas",
    "scipy",
    "torch",
}
"""Packages that a command should wait for only when it uses them."""


def imported(*arguments: str) -> set[str]:
    """Packages of which a command has imported a module, other than themselves: those may be waiting."""
    code = (
        "import sys\nfrom radixpoint.cli.main import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('imported', *{name.partition('.')[0] for name in sys.modules if '.' in name})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return set(result.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_starts_without_what_it_does_not_need(command: str) -> None:
    assert SLOW_TO_IMPORT & imported(command, "--help") <= {"PIL"}


def test_a_misspelt_command_is_named() -> None:
    assert "Did you mean 'search'?" in run("serach", status=2).stderr


def test_the_version_is_known_at_once() -> None:
    found = imported("--version")
    assert not (SLOW_TO_IMPORT | {"numpy"}) & found
    assert {"radixpoint", "typer"} <= found


def test_an_import_that_a_command_waits_for_is_seen(files: Path) -> None:
    """Planted: reading an ONNX model needs the package."""
    assert {"onnx", "onnxruntime"} <= imported("inspect", str(files / "model.onnx"))


def test_help_teaches() -> None:
    assert "demo" in run("--help").stdout
    for command in ("inspect", "search", "quantize", "evaluate", "demo"):
        assert "--" in run(command, "--help").stdout
    assert "optimize=False" in " ".join(run("search", "--help").stdout.split())


def test_inspect(files: Path) -> None:
    assert "4 conv" in run("inspect", files / "model.onnx").stdout
    document = json.loads(run("inspect", files / "model.onnx", "--json").stdout)
    assert document["operators"]["batch_norm"] == 4
    assert document["input"] == [3, 12, 12]


def test_quantize_and_evaluate(files: Path, tmp_path: Path) -> None:
    quantized = tmp_path / "n.safetensors"
    table = run(
        "quantize",
        files / "model.onnx",
        "--design",
        files / "design.json",
        "--calibration",
        files / "calibration.npz",
        "--preprocessing",
        files / "p.json",
        "--out",
        quantized,
    ).stdout
    assert "widest accumulator" in table
    common = [
        "evaluate",
        files / "model.onnx",
        "--network",
        quantized,
        "--images",
        files / "images.npz",
        "--preprocessing",
        files / "p.json",
        "--max-images",
        "40",
        "--json",
    ]
    fast = json.loads(run(*common, "--layers").stdout)
    assert json.loads(run(*common, "--layers", "--engine", "reference").stdout) == fast
    assert fast["images"] == 40
    assert fast["preprocessing"]["std"] == [0.25, 0.25, 0.25]
    assert len(fast["layer_sqnr"]) > 5


def test_search(files: Path, tmp_path: Path) -> None:
    text = run("search", *sources(files), "--out", tmp_path / "run", "--limit", "2")
    assert "joint" in text.stdout
    assert "separate" in text.stdout
    assert "fails" in text.stderr
    document = json.loads(
        run("search", *sources(files), "--out", tmp_path / "run", "--limit", "2", "--json").stdout
    )
    assert document == json.loads((tmp_path / "run" / "result.json").read_text())


def test_images_that_serve_twice_are_named(files: Path, tmp_path: Path) -> None:
    """What is chosen on calibration images must not be judged on them without a word."""
    given = sources(files)
    quiet = run("search", *given, "--out", tmp_path / "a", "--policy", "joint").stderr
    assert "calibration images too" not in quiet
    given[given.index(files / "calibration.npz")] = files / "images.npz"
    said = run("search", *given, "--out", tmp_path / "b", "--policy", "joint", "--json")
    assert "600 of 600 images are calibration images too" in said.stderr
    assert "chosen on these images" in said.stderr
    assert json.loads(said.stdout)["overlap"] == {"images, calibration": 600}


def test_held_out(files: Path, tmp_path: Path) -> None:
    """A number takes images away from the search; a path that holds the searched images is named."""
    given = [*sources(files), "--policy", "joint", "--limit", "5"]
    result = run("search", *given, "--out", tmp_path / "a", "--held-out", "200", "--json")
    document = json.loads(result.stdout)
    assert (document["images"]["count"], document["held_out"]["count"]) == (400, 200)
    assert document["policies"]["joint"]["held_out"]["images"] == 200
    assert "chosen on these images" not in result.stderr
    again = run("search", *given, "--out", tmp_path / "a", "--held-out", "200")
    assert "on 200 images that took no part" in again.stdout
    result = run("search", *given, "--out", tmp_path / "b", "--held-out", files / "images.npz")
    assert "600 held-out images are searched images too: they are not held out" in result.stderr
    assert "on 600 images, some of which took part" in result.stdout
    given[given.index(files / "calibration.npz")] = files / "images.npz"
    given[given.index(files / "images.npz")] = files / "calibration.npz"
    result = run("search", *given, "--out", tmp_path / "c", "--held-out", files / "images.npz", "--json")
    assert "600 held-out images are calibration images too" in result.stderr
    assert json.loads(result.stdout)["overlap"]["held_out, calibration"] == 600


def test_unreadable_images_are_named(files: Path, tmp_path: Path) -> None:
    from PIL import Image

    images = networks.images(20, 1, (3, 12, 12), classes=2)
    for i, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        (tmp_path / "set" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "set" / str(label) / f"{i}.png")
    (tmp_path / "set" / "0" / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "classes.txt").write_text("\n".join(map(str, range(10))))
    result = run(
        "search",
        files / "model.onnx",
        "--images",
        tmp_path / "set",
        "--calibration",
        files / "calibration.npz",
        "--preprocessing",
        files / "p.json",
        "--out",
        tmp_path / "run",
        "--policy",
        "joint",
        "--word-lengths",
        "10:11",
        "--classes",
        tmp_path / "classes.txt",
        "--at-chance",
        "--json",
    )
    assert "broken.png" in result.stderr
    assert "1 of 21 images are unreadable" in result.stderr
    assert json.loads(result.stdout)["images"]["unreadable"][0][0] == "0/broken.png"


def test_bad_input(files: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes((files / "model.onnx").read_bytes()[:500])
    fails("cut.onnx: not a readable ONNX model", "inspect", cut)
    fails("no such file", "inspect", tmp_path / "nowhere.onnx")
    (tmp_path / "empty").mkdir()
    good = sources(files)
    out = tmp_path / "run"
    fails("no images", "search", good[0], "--images", tmp_path / "empty", *good[3:], "--out", out)
    np.savez(tmp_path / "labels.npz", images=np.zeros((4, 12, 12, 3), np.uint8), labels=np.arange(10, 14))
    fails(
        "but the network has 10 outputs",
        "search",
        good[0],
        "--images",
        tmp_path / "labels.npz",
        *good[3:],
        "--out",
        out,
    )
    np.savez(tmp_path / "gray.npz", images=np.zeros((4, 9, 9, 3), np.uint8), labels=np.zeros(4, int))
    fails(
        "but the network takes (3, 12, 12)",
        "search",
        good[0],
        "--images",
        tmp_path / "gray.npz",
        *good[3:],
        "--out",
        out,
    )
    fails("cannot be made", "search", *good, "--out", "/proc/nowhere/run")
    fails("--word-lengths '16:2'", "search", *good, "--out", out, "--word-lengths", "16:2")
    fails("--metric", "search", *good, "--out", out, "--metric", "f1")
    fails("--limit", "search", *good, "--out", out, "--limit", "-1")
    fails("not one of 'network', 'class'", "search", *good, "--out", out, "--scope", "layer")
    fails("--fix 'conv0=²'", "search", *good, "--out", out, "--policy", "per-layer", "--fix", "conv0=²")
    twice = ("--fix", "conv0=4", "--fix", "conv0=5")
    fails("conv0 has 4", "search", *good, "--out", out, "--policy", "per-layer", *twice)
    fails("expected per-layer", "search", *good, "--out", out, "--policy", "greedy", "--memory", "9")
    fails("expected per-layer", "search", *good, "--out", out, "--objective", "luts")
    fails("rule sqnr with scope class", "search", *good, "--out", out, "--scope", "class", "--rule", "sqnr")
    fails("²", "search", *good, "--out", out, "--held-out", "²")
    fails("'--rule': Value error, 'best' is not one of", "search", *good, "--out", out, "--rule", "best")
    fails("rounding", "search", *good, "--out", out, "--rounding", "UP")
    fails("expected some of joint, separate", "search", *good, "--out", out, "--policy", "both")
    fails("expected numbers such as", "search", *good, "--out", out, "--input-shape", "big")
    assert not (out / "result.json").exists()
    quantize = [
        "quantize",
        good[0],
        "--calibration",
        files / "calibration.npz",
        "--preprocessing",
        files / "p.json",
    ]
    for name, text, message in (
        (
            "layer",
            '{"classes": {"conv": {"weights": 8, "activations": 8},'
            ' "bn": {"parameters": 8, "activations": 8}},'
            ' "radixpoint_design": 1, "layers": {"conv99": {"weights": 4}}}',
            "unknown layer 'conv99'",
        ),
        ("zero", '{"radixpoint_design": 1, "classes": {"conv": {"weights": 0}, "bn": {}}}', "expected 2..32"),
        (
            "wide",
            '{"radixpoint_design": 1, "classes": {"conv": {"weights": 33}, "bn": {}}}',
            "expected 2..32",
        ),
        (
            "class",
            '{"radixpoint_design": 1, "classes": {"conv": {}, "bn": {}, "lstm": {}}}',
            "unknown layer class 'lstm'",
        ),
        ("less", '{"radixpoint_design": 1, "classes": {"conv": {}}}', "no widths for bn"),
        ("none", '{"radixpoint_design": 1, "classes": {"conv": {}, "bn": {}}}', "no word length"),
        ("version", '{"radixpoint_design": 7, "classes": {"conv": {}, "bn": {}}}', "radixpoint_design"),
        ("typo", '{"radixpoint_design": 1, "clases": {}}', "clases"),
        ("json", "{", "not a design"),
    ):
        (tmp_path / name).write_text(text)
        target = tmp_path / "n.safetensors"
        fails(message, *quantize, "--design", tmp_path / name, "--out", target)
        assert not target.exists()
    fails(
        "cannot be written",
        *quantize,
        "--design",
        files / "design.json",
        "--out",
        "/proc/nowhere/n.safetensors",
    )
    fails("not a readable quantized network", "evaluate", good[0], "--network", cut, *good[1:3])


def test_a_network_of_another_model_is_refused(files: Path, tmp_path: Path) -> None:
    run(
        "quantize",
        files / "model.onnx",
        "--design",
        files / "design.json",
        "--calibration",
        files / "calibration.npz",
        "--preprocessing",
        files / "p.json",
        "--out",
        tmp_path / "n.safetensors",
    )
    other = networks.residual(seed=3)
    onnx.save(to_onnx(other, [other.output]), tmp_path / "other.onnx")
    fails(
        "was not quantized from",
        "evaluate",
        tmp_path / "other.onnx",
        "--network",
        tmp_path / "n.safetensors",
        "--images",
        files / "images.npz",
        "--preprocessing",
        files / "p.json",
    )


def test_a_network_that_says_nothing_is_refused(files: Path, tmp_path: Path) -> None:
    graph = networks.residual()
    silent = replace(quantize(graph, networks.calibrated(graph), Design.joint(8)), metadata={})
    save_network(silent, tmp_path / "n.safetensors")
    given = [files / "model.onnx", "--network", tmp_path / "n.safetensors", "--images", files / "images.npz"]
    fails("does not say which float network", "evaluate", *given, "--preprocessing", files / "p.json")


def test_layers_of_an_equalized_network_have_no_sqnr(files: Path, tmp_path: Path) -> None:
    """Its tensors are not those of the float network; its outputs are, and can be evaluated."""
    (tmp_path / "design.json").write_bytes(Design.separate(8, 12, equalize=True).to_json())
    made = ["--design", tmp_path / "design.json", "--calibration", files / "calibration.npz"]
    read = ["--preprocessing", files / "p.json"]
    run("quantize", files / "model.onnx", *made, *read, "--out", tmp_path / "n.safetensors")
    evaluate = ["evaluate", files / "model.onnx", "--network", tmp_path / "n.safetensors"]
    evaluate += ["--images", files / "images.npz", *read]
    assert "600 images" in run(*evaluate).stdout
    fails("expected a design without equalize", *evaluate, "--layers")


def test_designs_in_python() -> None:
    with pytest.raises(DesignError, match=r"expected 2\.\.32"):
        Design.joint(1)
    with pytest.raises(DesignError, match="forms"):
        Design.joint(8, forms="staged")
    design = Design.separate(8, 12, batch_norm="staged", layers={"conv1": {"weights": 4}})
    import msgspec

    assert msgspec.json.decode(design.to_json(), type=Design) == design


def test_demo(tmp_path: Path) -> None:
    """The whole job on the embedded network; its float accuracy is what training reached."""
    result = json.loads(run("demo", "--out", tmp_path / "run", "--json").stdout)
    assert result["float"]["top1"] >= 90.0
    assert result["images"]["count"] == 10_000
    joint, separate = result["policies"]["joint"], result["policies"]["separate"]
    assert separate["conv"] < joint["word_length"]
    assert max(joint["drop"], separate["drop"]) <= 1.0


def test_another_engine_finds_the_same(files: Path, tmp_path: Path) -> None:
    """Byte for byte, by PyTorch's tensors; and a device that is not here stops before any work."""
    ranges = tmp_path / "r.npz"
    given = [
        files / "model.onnx",
        "--calibration",
        files / "calibration.npz",
        "--images",
        files / "images.npz",
    ]
    run("calibrate", *given, "--preprocessing", files / "p.json", "-o", ranges)
    search = ["search", *sources(files), "--ranges", ranges, "--limit", "2", "--policy", "joint"]
    for engine in ("auto", "torch"):
        run(*search, "--out", tmp_path / engine, "--engine", engine)
    found, expected = ((tmp_path / name / "result.json").read_bytes() for name in ("torch", "auto"))
    assert found == expected
    fails("expected one that is here", *search, "-o", tmp_path / "x", "-e", "torch", "--device", "abacus")
    fails("expected --engine torch", *search, "-o", tmp_path / "x", "--device", "cpu")
    assert not (tmp_path / "x").exists()


def test_a_caffe_network(tmp_path: Path) -> None:
    from caffe_models import random_weights

    text = (
        'input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8 '
        'layer { name: "c" type: "Convolution" bottom: "data" top: "c" '
        "convolution_param { num_output: 4 kernel_size: 3 } } "
        'layer { name: "s" type: "Softmax" bottom: "c" top: "s" }'
    )
    (tmp_path / "n.prototxt").write_text(text)
    (tmp_path / "n.caffemodel").write_bytes(random_weights(text))
    result = run("inspect", tmp_path / "n.prototxt", "--weights", tmp_path / "n.caffemodel", "--json")
    found = json.loads(result.stdout)
    assert found["outputs"] == {"c": [4, 6, 6]}
    assert "left out" in found["notes"][0]
    fails("give its weights", "inspect", tmp_path / "n.prototxt")
    fails("no such file", "inspect", tmp_path / "m.prototxt", "-w", tmp_path / "n.caffemodel")
    ends = ["-w", tmp_path / "n.caffemodel", "--calibration", tmp_path, "-o", tmp_path / "r.npz"]
    fails("does not say how images are prepared", "calibrate", tmp_path / "n.prototxt", *ends)
    mean = ["--preprocessing", tmp_path / "m.binaryproto"]
    fails("m.binaryproto: No such file", "calibrate", tmp_path / "n.prototxt", *ends, *mean)
    fails("expected it with a model in Caffe's", "calibrate", tmp_path / "n.onnx", *ends, *mean)
    fails("expected torch:package.module:factory", "inspect", "torch:mine")


def test_a_search_from_a_file(files: Path, tmp_path: Path) -> None:
    """Options by name, paths relative to the file; flags override; what was asked for is in the folder."""
    small = ["--word-lengths", "6,8", "--policy", "joint"]
    run("search", *sources(files), "--out", tmp_path / "flags", "--limit", "3", *small)
    (files / "run.toml").write_text(
        'model = "model.onnx"\nimages = "images.npz"\ncalibration = "calibration.npz"\n'
        'preprocessing = "p.json"\nlimit = 3\npolicy = ["joint"]\nword-lengths = "6,8"\nunsigned = false\n'
    )
    run("search", files / "run.toml", "--out", tmp_path / "file")
    expected = (tmp_path / "flags" / "result.json").read_bytes()
    assert (tmp_path / "file" / "result.json").read_bytes() == expected
    run("search", tmp_path / "file" / "run.toml", "--out", tmp_path / "again")
    assert (tmp_path / "again" / "result.json").read_bytes() == expected
    run(
        "search",
        files / "run.toml",
        "--out",
        tmp_path / "other",
        "--word-lengths",
        "8,9",
        "--policy",
        "separate",
    )
    other = json.loads((tmp_path / "other" / "result.json").read_text())
    assert (other["word_lengths"], list(other["policies"])) == ([8, 9], ["separate"])
    for text, message in (
        ("limits = 3", "'limits': no option of search"),
        ("limit = [1]", "limit = [1]: expected text, a number"),
        ("unsigned = 3", "unsigned = 3: expected true or false"),
        ("limit = true", "limit = true: expected a value"),
        ("limit = ", "not TOML"),
        ('model = "x.onnx"\nfix = [{}]', "fix = [{}]"),
    ):
        (files / "bad.toml").write_text(text)
        fails(message, "search", files / "bad.toml", "--out", tmp_path / "bad")
    fails("No such file", "search", files / "none.toml", "--out", tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def brightest(results: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """A metric of one's own: whether the label is the best class."""
    return results.argmax(1) == targets


def test_metrics_and_limits_on_the_command_line(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    small = ["--word-lengths", "6,8", "--policy", "joint"]
    own = run("search", *sources(files), "--out", tmp_path / "own", "--limit", "3", *small,
              "--metric", "test_cli:brightest")  # fmt: skip
    run("search", *sources(files), "--out", tmp_path / "top1", "--limit", "3", *small)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("own", "top1")]
    assert results[0]["policies"]["joint"]["word_length"] == results[1]["policies"]["joint"]["word_length"]
    assert results[0]["policies"]["joint"]["drop"] == results[1]["policies"]["joint"]["drop"]
    assert "test_cli:brightest" in own.stdout
    relative = run("search", *sources(files), "--out", tmp_path / "rel", "--limit", "3%", *small)
    assert json.loads((tmp_path / "rel" / "result.json").read_text())["criterion"]["relative"] is True
    assert "joint" in relative.stdout
    entropy = run(
        *("search", *sources(files), "--out", tmp_path / "ce", "--limit", "5%", "--metric", "cross-entropy"),
        *small,
    )
    assert "nats" in entropy.stderr
    assert "points" not in entropy.stderr + entropy.stdout
    fails("--limit x", "search", *sources(files), "--out", tmp_path / "x", "--limit", "x")
    fails("No module named", "search", *sources(files), "--out", tmp_path / "x", "--metric", "nowhere:x")
    fails("expected here, ray", "search", *sources(files), "--out", tmp_path / "x", "--executor", "slurm")
