"""Target files: what hardware cannot run is refused before work, and a search stays inside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

import networks
from radixpoint.accelerator.target import HardwareTarget, Words, named_targets
from radixpoint.errors import DesignError
from radixpoint.ir.network import IntGraph
from radixpoint.ir.storage import load_network, save_network
from radixpoint.quantization.design import Accumulator, BinaryPoint, Design, Widths
from radixpoint.quantization.quantize import quantize
from radixpoint.searching.criterion import Criterion
from radixpoint.searching.result import Result
from radixpoint.searching.task import search
from test_cli import run

ODD = """
about = "9 x 5 multipliers behind 20-bit accumulators"
[words]
weights = "2:9"
activations = "2:5"
bn = [8, 12, 16]
accumulator = 20
[arithmetic]
operands = ["unsigned", "signed"]
"""
EASY: dict[str, Any] = {
    "unsigned": True,
    "binary_point": {"rule": "sqnr"},
    "criterion": Criterion(limit=20.0),
}
NOTHING = "[words]\nweights = []\n"
GRAPH = networks.balanced()
RANGES = networks.calibrated(GRAPH)


def target(text: str, name: str = "test") -> HardwareTarget:
    return msgspec.toml.decode(f'radixpoint_target = 1\nname = "{name}"\n{text}', type=HardwareTarget)


def broken(limits: str, design: Design) -> list[str]:
    """Rules of a target that the quantized network breaks."""
    return [one.rule for one in target(limits).problems(quantize(GRAPH, RANGES, design))]


def before(limits: str, design: Design) -> list[str]:
    """Rules that the design breaks, before any work."""
    return [one.rule for one in target(limits).problems_of_design(design, GRAPH)]


def searched(tmp_path: Path, **options: Any) -> Result:
    own = {"criterion": Criterion(limit=4.0), "word_lengths": range(3, 17)} | options
    images, calibration = networks.labelled(GRAPH, 600, 1), networks.labelled(GRAPH, 64, 2)
    return search(GRAPH, images, calibration, tmp_path / "run", **own)


@pytest.mark.parametrize(
    ("limits", "design"),
    [
        ("[words]\nweights = [4, 6]", {"conv": 8}),
        ("[words]\nactivations = [7]", {"conv": 8}),
        ("[words]\nbn = [8]", {}),
        ("[words]\nparameters = [8]", {}),
    ],
)
def test_word_lengths_are_refused_before_and_after(limits: str, design: dict[str, int]) -> None:
    given = Design.separate(design.get("conv", 8), 12)
    line = limits.splitlines()[1]
    rule = f"words.{line.partition(' ')[0]}"
    assert set(before(limits, given)) == {rule}
    assert set(broken(limits, given)) == {rule}
    wide = f"{limits.partition('=')[0]}= '2:32'"
    assert before(wide, given) == broken(wide, given) == []


@pytest.mark.parametrize(
    ("limits", "options"),
    [
        ('rounding = ["TRN"]', {}),
        ('overflow = ["SAT_SYM"]', {}),
        ('operands = ["unsigned"]', {}),
        ('operands = ["signed"]', {"unsigned": True}),
    ],
)
def test_forms_are_refused(limits: str, options: dict[str, Any]) -> None:
    given = Design.separate(8, 12, **options)
    rule = f"arithmetic.{limits.partition(' ')[0]}"
    assert rule in broken(f"[arithmetic]\n{limits}", given)
    if not options:
        assert before(f"[arithmetic]\n{limits}", given) == [rule]
    assert broken('[arithmetic]\nrounding = ["RND"]\noperands = ["signed", "unsigned"]', given) == []


def test_forms_that_only_a_design_shows() -> None:
    given = Design.separate(8, 12, batch_norm="staged", binary_point={"scope": "channel"})
    assert before('[arithmetic]\nbatch_norm = ["affine"]\nscopes = ["tensor"]', given) == [
        "arithmetic.scopes",
        "arithmetic.batch_norm",
    ]
    coded = Design.separate(8, 12, codes={"weights": {"kind": "log2"}})
    assert before("", coded) == ["arithmetic.codes"]
    assert before('[arithmetic]\ncodes = ["log2"]', coded) == []


def accumulators(network: IntGraph) -> list[int]:
    return [network.tensors[s.name].format.word_length for s in network.steps if s.family == "product"]


def test_limits_of_a_network_are_sharp() -> None:
    """Each limit holds at the largest value that the network has, and is broken one below."""
    given = Design.separate(8, 12)
    network = quantize(GRAPH, RANGES, given)
    casts = [network.shift(step) for step in network.steps if step.op == "cast"]
    sums = [step for step in network.steps if step.row.aligned]
    places = [network.align(s, one) for s in sums for one in (*range(len(s.inputs)), *s.parameters)]
    sharp = {
        "words.accumulator": max(accumulators(network)),
        "shift.right": max(int(one.max()) for one in casts),
        "shift.left": max(int(-one.min()) for one in casts),
        "shift.align": max(int(one.max()) for one in places),
        "layers.kernel": 3,
    }
    for rule, most in sharp.items():
        table, name = rule.split(".")
        assert broken(f"[{table}]\n{name} = {most}", given) == [], rule
        if most > 0:
            assert broken(f"[{table}]\n{name} = {most - 1}", given) == [rule]


def test_memory_and_time() -> None:
    given = Design.separate(8, 12)
    network = quantize(GRAPH, RANGES, given)
    stored = sum(p.data.size * p.format.word_length for p in network.parameters.values()) / 8192
    for limits, rules in ((stored, []), (stored - 1 / 8192, ["memory.parameters"])):
        assert broken(f"[memory]\nparameters = {limits}", given) == rules
    # what is stored to divide by, in pooling, shows only in the network
    divisors = sum(
        p.data.size * p.format.word_length for name, p in network.parameters.items() if "divisor" in name
    )
    assert divisors > 0
    for limits, rules in ((stored, []), (stored - (divisors + 1) / 8192, ["memory.parameters"])):
        assert before(f"[memory]\nparameters = {limits}", given) == rules
    assert broken("[memory]\nactivations = 0.01", given) == ["memory.activations"]
    fast = "[clock]\nmultipliers = 64\nmegahertz = 100\nmilliseconds = "
    assert before(f"{fast}1000", given) == []
    assert before(f"{fast}1e-6", given) == broken(f"{fast}1e-6", given) == ["clock.milliseconds"]


def test_an_accumulator_that_wraps() -> None:
    given = Design.separate(8, 12, accumulator=msgspec.to_builtins(Accumulator(14)))
    assert max(accumulators(quantize(GRAPH, RANGES, given))) > 14
    assert broken("[words]\naccumulator = 14\nwraps = true", given) == []
    assert before("[words]\naccumulator = 14", given) == ["words.wraps"]
    assert broken("[words]\naccumulator = 13\nwraps = true", given) == ["words.accumulator"]
    # wrapping later than the accumulator does is not what the hardware computes
    assert "words.accumulator" in broken("[words]\naccumulator = 14", given)


def test_layers() -> None:
    given = Design.separate(8, 12)
    assert before('[layers]\noperators = ["conv", "relu"]', given)[0] == "layers.operators"
    assert before("[layers]\nkernel = 1", given) == ["layers.kernel"]
    channels = target("[layers]\nchannels = 7").problems_of_design(given, GRAPH)
    assert {one.rule for one in channels} == {"layers.channels"}
    assert all(one.layers for one in channels)
    assert not target("[layers]\nchannels = 16").problems_of_design(given, GRAPH)
    assert "layers.steps" in broken('[layers]\nsteps = ["conv"]', given)
    grouped = networks.mixed()
    problems = target("[layers]\ngroups = false").problems_of_design(given, grouped)
    assert {one.rule for one in problems} == {"layers.groups"}


def test_forms_that_the_network_says_it_has() -> None:
    """What the steps do not show is in the design that the network names."""
    channel = Design.separate(8, 12, batch_norm="staged", binary_point={"scope": "channel"})
    assert broken('[arithmetic]\nscopes = ["tensor"]', channel) == ["arithmetic.scopes"]
    assert broken('[arithmetic]\nbatch_norm = ["affine"]', channel) == ["arithmetic.batch_norm"]
    assert broken('[arithmetic]\naverage_pool = ["reciprocal"]', channel) == ["arithmetic.average_pool"]
    wraps = Design.separate(8, 12, accumulator=msgspec.to_builtins(Accumulator(14)))
    assert "words.wraps" in broken("[words]\naccumulator = 24", wraps)
    coded = Design.separate(8, 12, codes={"weights": {"kind": "log2"}})
    assert broken("", coded) == ["arithmetic.codes"]
    assert broken('[arithmetic]\ncodes = ["log2"]', coded) == []


def test_windows_of_pooling_count() -> None:
    n = networks.Net(0, (3, 9, 9))
    x = n.simple("max_pool", n.conv("input", 4), kernel=(5, 5), strides=(2, 2), pads=(0,) * 4)
    graph = n.graph(n.fc(n.simple("flatten", x), 36, 3))
    five = target("[layers]\nkernel = 4")
    given = Design.separate(8, 12)
    assert [p.rule for p in five.problems_of_design(given, graph)] == ["layers.kernel"]
    network = quantize(graph, networks.calibrated(graph), given)
    assert [p.rule for p in five.problems(network)] == ["layers.kernel"]
    assert target("[layers]\nkernel = 5").problems(network) == []


@pytest.mark.slow("it searches")
def test_greedy_passes_over_word_lengths_that_there_are_not(tmp_path: Path) -> None:
    gaps = target("[words]\nweights = [3, 9]\nactivations = [4, 11]")
    found = searched(
        tmp_path, target=gaps, policies=("greedy",), **{k: v for k, v in EASY.items() if k != "unsigned"}
    )
    assert found.policies["greedy"].tried or found.policies["greedy"].conv_search
    name = tmp_path / "run" / "greedy" / "network.safetensors"
    if name.exists():
        assert gaps.problems(load_network(name)) == []


def test_fitted() -> None:
    odd = target(ODD)
    fitted = odd.fitted(Design.separate(12, 15))
    assert fitted.classes["conv"] == Widths(9, 5, 12)
    assert fitted.classes["bn"] == Widths(12, 12, 15)
    assert fitted.target == "test"
    assert odd.fitted(fitted) == fitted
    assert not odd.problems_of_design(fitted, GRAPH)
    with pytest.raises(DesignError, match=r"words.bn: activations of 7 bits: expected 8 or 12 or 16"):
        odd.fitted(Design.separate(12, 7))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[words]\nweights = '8'", "expected a list, or shortest:longest"),
        ("[words]\nweights = [1]", "1 bits: expected 2..32"),
        ("[words]\naccumulator = 0", "words.accumulator = 0: expected a number above 0"),
        ("[words]\nwraps = true", "expected the width at which sums wrap"),
        ("[words]\nwidth = 3", "unknown field"),
        ("[shift]\nright = -1", "shift.right = -1"),
        ("[memory]\nparameters = nan", "memory.parameters = nan"),
        ("[arithmetic]\nrounding = ['UP']", "Invalid enum value 'UP'"),
        ("[layers]\noperators = ['convolution']", "'convolution': expected some of"),
        ("[clock]\nmilliseconds = 3", "expected clock.multipliers and clock.megahertz"),
        ("name = 3", "not a target"),
        ("[arithmetic]\ntable = 0", "arithmetic.table = 0"),
        ("[arithmetic]\ncodes = ['nope']", "arithmetic.codes: 'nope'"),
        ("[sources]\n'words.nope' = 'x'", "sources: 'words.nope'"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.toml").write_text(f'radixpoint_target = 1\nname = "t"\n{text}\n')
    with pytest.raises(DesignError) as error:
        HardwareTarget.load(tmp_path / "t.toml")
    assert message in str(error.value)
    assert "t.toml" in str(error.value)


def test_named_targets_say_where_figures_come_from() -> None:
    assert {"diannao", "dsp48e2", "cortex-m"} <= set(named_targets())
    for name in named_targets():
        one = HardwareTarget.load(name)
        assert one.name == name
        assert one.about
        assert one.sources
        tables = msgspec.to_builtins(one)
        for rule in one.sources:
            table, key = rule.split(".")
            assert key in tables[table], rule
    with pytest.raises(DesignError, match="expected one, or a name: cortex-m"):
        HardwareTarget.load("nothing-of-the-kind")
    with pytest.raises(DesignError, match="name too long"):
        HardwareTarget.load("a" * 5000)


@pytest.mark.slow("it searches")
def test_search_stays_inside(tmp_path: Path) -> None:
    """Every design that was tried runs on the target; the answer names it."""
    odd = target(ODD, "odd")
    found = searched(tmp_path, target=odd, policies=("joint", "separate", "per-layer"), **EASY)
    assert found.target == odd
    for name, policy in found.policies.items():
        assert policy.holds, name
        network = load_network(tmp_path / "run" / name / "network.safetensors")
        assert odd.problems(network) == []
        recorded = Design.recorded(network)
        assert recorded is not None
        assert recorded.target == "odd"
        assert max(accumulators(network)) <= 20
    joint = [Design.joint(trial.word_length) for trial in found.policies["joint"].tried]
    assert len({odd.fitted(design).to_json() for design in joint}) == len(joint)
    pairs = found.policies["per-layer"].layers
    assert isinstance(pairs, dict)
    assert all(w <= 9 and x <= 5 for w, x in pairs.values())


@pytest.mark.slow("it searches")
def test_search_passes_over_what_only_a_network_shows(tmp_path: Path) -> None:
    """Without the limit a longer word is the answer's neighbour; with it, designs beyond are ruled out."""
    narrow = target("[words]\naccumulator = 16", "narrow")
    found = searched(tmp_path, target=narrow, policies=("separate",))
    ruled_out = found.policies["separate"].ruled_out
    assert isinstance(ruled_out, dict)
    assert "separate, bn 16, conv 16 bits" in ruled_out
    assert "words.accumulator" in ruled_out["separate, bn 16, conv 16 bits"]
    for what in ruled_out:  # each of them, and no other
        bits = int(what.split()[-2])
        network = quantize(GRAPH, RANGES, Design.separate(bits, 16))
        assert max(accumulators(network)) > 16
    trials = found.policies["separate"].conv_search
    assert isinstance(trials, list)
    tried = {trial.word_length for trial in trials}
    assert tried
    assert all(max(accumulators(quantize(GRAPH, RANGES, Design.separate(bits, 16)))) <= 16 for bits in tried)
    again = searched(tmp_path, target=narrow, policies=("separate",))
    assert again.encoded() == found.encoded()


@pytest.mark.slow("it searches")
def test_the_search_takes_the_forms_that_there_are(tmp_path: Path) -> None:
    folded = target('[arithmetic]\nbatch_norm = ["folded"]\nrounding = ["TRN"]\nscopes = ["channel"]')
    found = searched(tmp_path, target=folded, policies=("separate",), word_lengths=range(8, 13))
    design = Design.load(tmp_path / "run" / "separate" / "design.json")
    assert (design.batch_norm, design.rounding) == ("folded", "TRN")
    assert design.binary_point == BinaryPoint("channel")
    assert found.options["batch_norm"] == "folded"
    with pytest.raises(DesignError, match=r"arithmetic.batch_norm: staged: expected folded"):
        searched(tmp_path / "other", target=folded, batch_norm="staged")


def test_a_target_that_admits_nothing(tmp_path: Path) -> None:
    for policies in (("joint",), ("separate",), ("per-layer",), ("greedy",)):
        with pytest.raises(DesignError, match=r"no word length of 3..16 fits: .*the list is empty"):
            searched(tmp_path, target=target(NOTHING), policies=policies)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow("it starts processes")
def test_command_line(tmp_path: Path) -> None:
    file, network = tmp_path / "odd.toml", tmp_path / "network.safetensors"
    file.write_text(f'radixpoint_target = 1\nname = "odd"\n{ODD}')
    save_network(quantize(GRAPH, RANGES, Design.separate(12, 12)), network)
    assert "diannao" in run("target").stdout
    assert "words.accumulator" in run("target", file).stdout
    said = run("target", file, "--check", network, status=1).stdout
    assert "words.weights: 12 bits: expected 2..9" in said
    assert "rules broken" in said
    report = json.loads(run("target", file, "--check", network, "--json", status=1).stdout)
    assert not report["fits"]
    assert {one["rule"] for one in report["problems"]} >= {"words.weights"}
    refused = run("export", network, "--to", "vectors", "-o", tmp_path / "out", "--target", file, status=2)
    assert "target odd rules it out" in refused.stderr
    assert not (tmp_path / "out").exists()
    fits = Design.separate(12, 12, unsigned=True)
    save_network(quantize(GRAPH, RANGES, target(ODD).fitted(fits)), network)
    assert "odd: fits" in run("target", file, "--check", network).stdout
    run("target", tmp_path / "none.toml", status=2)
    (tmp_path / "mine.toml").write_text(run("target", "eyeriss", "--toml").stdout)
    assert HardwareTarget.load(tmp_path / "mine.toml") == HardwareTarget.load("eyeriss")
    assert (tmp_path / "mine.toml").read_text().startswith("# Chen, Krishna")
    for wrong in (["target", "--toml"], ["target", "eyeriss", "--toml", "--json"]):
        assert "--toml: expected a target" in run(*wrong, status=2).stderr
    run("export", network, "--to", "vectors", "-o", tmp_path / "out", "--count", "3")
    assert len(np.load(tmp_path / "out" / "images.npy")) == 3
    costs = json.loads(run("cost", network, "--target", "diannao", "--no-synthesis", "--json").stdout)
    assert costs["target"]["milliseconds"] > 0
    assert costs["target"]["problems"]


def test_same_limits_have_the_same_content() -> None:
    assert target("[words]\nweights = '2:4'").content == target("[words]\nweights = [4, 3, 2]").content
    changed = replace(target(""), words=Words(weights=[2]))
    assert changed.content != target("").content
