"""Word lengths by layer: against all allocations, under every constraint; the search with them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import highspy
import msgspec
import numpy as np
import pytest

import networks
from radixpoint.accelerator.cost import cost, multiplier_cost, product_energy
from radixpoint.errors import DesignError, ExportError
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import Quantizer
from radixpoint.searching.allocate import (
    Allocation,
    Constraints,
    Losses,
    Objective,
    Products,
    Sensitivity,
    allocate,
    allocated,
    frontier,
    greedy,
    other_parameters,
    product_layers,
)
from radixpoint.searching.criterion import Criterion
from radixpoint.searching.line import cheapest
from radixpoint.searching.result import Result
from radixpoint.searching.task import search
from radixpoint.searching.watcher import Watcher

LENGTHS = (3, 4, 5)


def problem(seed: int) -> tuple[Sensitivity, dict[str, Products]]:
    random = np.random.default_rng(seed)
    layers = {
        name: Products(*(int(n) for n in random.integers(10, 1000, 3)), unsigned=name == "b")
        for name in ("a", "b", "c")
    }

    def table() -> dict[str, dict[int, float]]:
        return {n: dict(zip(LENGTHS, [*sorted(random.random(2))[::-1], 0.0], strict=True)) for n in layers}

    return Sensitivity(0.01, table(), table()), layers


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("objective", ["multipliers", "bops", "energy", "gates", "luts", "memory"])
@pytest.mark.parametrize("limits", ["none", "equal", "one_width", "fixed", "apart", "memory"])
def test_against_all_allocations(seed: int, objective: Objective, limits: str) -> None:
    sensitivity, layers = problem(seed)
    # a layer fixed at a word length that the others do not have: 8 at the end, 3 to 5 inside
    eight = {"a": {8: 0.05}}
    sensitivity = sensitivity.joined(Sensitivity(0.01, eight, eight))
    memory, others = sum(one.weights for one in layers.values()) * 4, 77
    constraints = {
        "none": Constraints(),
        "equal": Constraints(equal=True),
        "one_width": Constraints(one_width=True, fixed={"b": 5}),
        "fixed": Constraints(fixed={"a": 5, "c": 4}),
        "apart": Constraints(fixed={"a": 8}, one_width=bool(seed % 2)),
        "memory": Constraints(memory=memory + others),
    }[limits]

    def allowed(one: dict[str, tuple[int, int]]) -> bool:
        free = {pair for name, pair in one.items() if name not in constraints.fixed}
        return (
            sensitivity.loss(one) <= 0.9
            and all(one[name] == (w, w) for name, w in constraints.fixed.items())
            and (not (constraints.equal or constraints.one_width) or all(w == x for w, x in free))
            and (not constraints.one_width or len(free) == 1)
            and (limits != "memory" or sum(layers[n].weights * w for n, (w, _) in one.items()) <= memory)
        )

    def price(one: dict[str, tuple[int, int]]) -> float:
        return sum(layers[name].cost(pair, objective) for name, pair in one.items())

    pairs = [*itertools.product(LENGTHS, LENGTHS), *([(8, 8)] if limits == "apart" else [])]
    possible = (dict(zip(layers, c, strict=True)) for c in itertools.product(pairs, repeat=3))
    everything = (one for one in possible if all(8 not in one[name] for name in "bc"))
    best = min((price(one) for one in everything if allowed(one)), default=None)
    found = allocate(sensitivity, layers, 0.9, objective, constraints, others)
    if best is None:
        assert found is None
    else:
        assert found is not None
        assert allowed(dict(found))
        assert price(dict(found)) == pytest.approx(best, rel=1e-9)


def test_frontier_descends() -> None:
    sensitivity, layers = problem(1)
    path = frontier(sensitivity, layers, 8)
    losses = [sensitivity.loss(one) for one in path]
    costs = [sum(layers[n].cost(p, "multipliers") for n, p in one.items()) for one in path]
    assert len(path) > 2
    assert losses == sorted(losses)
    assert costs == sorted(costs, reverse=True)
    with pytest.raises(DesignError, match="1 bits for all parameters"):
        frontier(sensitivity, layers, 8, constraints=Constraints(memory=1))
    with pytest.raises(DesignError, match="'z' fixed at 4"):
        frontier(sensitivity, layers, 8, constraints=Constraints(fixed={"z": 4}))


@pytest.fixture(scope="module")
def quantizer() -> Quantizer:
    graph = networks.balanced()
    return Quantizer(graph, networks.calibrated(graph))


@pytest.mark.parametrize("rule", ["max", "loss"])
def test_losses_are_those_of_the_designs(quantizer: Quantizer, rule: str) -> None:
    design = Design.separate(8, 14, binary_point={"scope": "channel", "rule": rule})
    losses = Losses(quantizer, design, (3, 5, 8))
    names = list(losses.layers)
    one = {names[0]: (3, 8), names[2]: (5, 3), names[-1]: (8, 5)}
    long = allocated(Design.separate(8, 16, binary_point=design.binary_point), one, quantizer.graph)
    assert losses.loss(one) == quantizer.loss(long, quantizer.formats(long))
    sensitivity = losses.measure()
    assert sensitivity.base == losses.loss({})
    assert sensitivity.weights[names[1]][3] == max(losses.loss({names[1]: (3, 8)}) - sensitivity.base, 0)
    assert sensitivity.activations[names[1]][8] == 0


def test_costs_are_those_of_the_network(quantizer: Quantizer) -> None:
    """Products alone; what cost.py counts beyond is the same for every allocation."""
    layers = product_layers(quantizer.graph)
    design = Design.separate(8, 14)
    whole = [{name: (w, x) for name in layers} for w, x in ((8, 8), (4, 6))]
    networks_ = [quantizer.quantize(allocated(design, one, quantizer.graph)) for one in whole]
    for objective, count in (
        ("multipliers", multiplier_cost),
        ("bops", lambda n: cost(n).bit_operations),
        ("memory", lambda n: cost(n).weight_bits),
    ):
        prices = [sum(layers[n].cost(p, objective) for n, p in one.items()) for one in whole]  # type: ignore[arg-type]
        assert prices[0] - prices[1] == pytest.approx(count(networks_[0]) - count(networks_[1]), abs=2)


@pytest.mark.parametrize("form", ["affine", "staged", "folded"])
def test_memory_counts_every_parameter(form: str) -> None:
    """As ``cost`` counts the network, but for the divisors of average pooling, which are wired."""
    for graph in (networks.balanced(), networks.mixed()):
        ranges = networks.calibrated(graph)
        design = Design.separate(6, 13, batch_norm=form)
        network = Quantizer(graph, ranges).quantize(design)
        divisors = sum(
            p.data.size * p.format.word_length
            for key, p in network.parameters.items()
            if key.endswith("/divisor")
        )
        assert other_parameters(graph, design) == cost(network).parameter_bits - divisors


def test_energy_by_hand(quantizer: Quantizer) -> None:
    """Sums of 9 products of 4 by 5 bits reach 9 x 8 x 16 = 1152: 12 bits. A network's own are narrower."""
    expected = 10 * (0.2 * 20 / 64 + 0.03 * 12 / 8)
    assert Products(10, 9, 9).cost((4, 5), "energy") == pytest.approx(expected)
    layers = product_layers(quantizer.graph)
    network = quantizer.quantize(Design.separate(6, 14))
    products = sum(one.cost((6, 6), "energy") for one in layers.values())
    scalings = cost(network).scalings * product_energy(14, 14, 28)
    assert cost(network).energy - scalings == pytest.approx(products, rel=0.1)
    assert cost(network).energy - scalings <= products


def test_area_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 multiplications by a multiplier of 5 x 4 bits; one of 6 x 4 where activations have no sign bit."""
    areas = {(5, 4): 100.0, (6, 4): 120.0}
    monkeypatch.setattr("radixpoint.searching.allocate.multiplier_area", lambda x, w, unit: areas[x, w])
    assert Products(10, 3, 7).cost((4, 5), "luts") == 1000
    assert Products(10, 3, 7, unsigned=True).cost((4, 5), "gates") == 1200


def test_unsigned_layers_are_known() -> None:
    """All but the first convolution of the residual network multiply what a ReLU has passed, or pooled."""
    graph = networks.residual()
    assert not any(one.unsigned for one in product_layers(graph).values())
    known = product_layers(graph, unsigned=True)
    signed = [name for name, one in known.items() if not one.unsigned]
    assert signed == [next(iter(known))]


def test_the_solver_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output is the result's: ``--json`` prints one document."""
    sensitivity, layers = problem(0)
    assert allocate(sensitivity, layers, 0.9) is not None
    assert capfd.readouterr().out == ""


def test_a_solver_that_gives_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an answer that is not proven, and not 'nothing meets the constraints'."""
    sensitivity, layers = problem(0)

    late = highspy.HighsModelStatus.kTimeLimit
    monkeypatch.setattr(highspy.Highs.__base__, "getModelStatus", lambda self: late)
    with pytest.raises(DesignError, match="gave up: Time limit"):
        allocate(sensitivity, layers, 0.9)


def test_an_area_that_cannot_be_told_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radixpoint.accelerator.synthesis.shutil.which", lambda name: None)
    monkeypatch.setattr("radixpoint.accelerator.synthesis.importlib.util.find_spec", lambda name: None)
    graph = networks.balanced()
    images = networks.labelled(graph, 60, 1)
    asked = {"policies": ["per-layer"], "word_lengths": (20, 21), "bn_start": 24, "objective": "luts"}
    with pytest.raises(ExportError, match="Yosys"):
        search(graph, images, images, tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()


class Table(Losses):
    """Losses of two layers by hand: those of each layer, and more where both are short."""

    def __init__(self) -> None:
        self.lengths = (2, 3, 4)
        self.layers = dict.fromkeys("ab", Products(1, 1, 1))
        self.own = {"a": {4: 0, 3: 1, 2: 5}, "b": {4: 0, 3: 2, 2: 3}}

    def loss(self, allocation: Allocation) -> float:
        a, b = (allocation[name][0] for name in "ab")
        return self.own["a"][a] + self.own["b"][b] + 10 * ((a, b) == (3, 2))


def test_greedy_by_hand() -> None:
    """a first (1 against 2); then b (3 against 5); then a, since b at 2 bits would now cost 14, not 4."""
    path = greedy(Table())
    assert [(one["a"][0], one["b"][0]) for one in path] == [(4, 4), (3, 4), (3, 3), (2, 3), (2, 2)]
    assert all(w == x for one in path for w, x in one.values())


def test_greedy_takes_the_least_loss_each_time(quantizer: Quantizer) -> None:
    losses = Losses(quantizer, Design.separate(8, 14), (4, 6, 8))
    path = greedy(losses)
    assert len(path) == 1 + 2 * len(losses.layers)
    assert set(path[-1].values()) == {(4, 4)}
    for before, after in itertools.pairwise(path):
        assert sum(before[name] != after[name] for name in before) == 1
    for before, after in itertools.pairwise(path[:8]):
        shorter = {n: losses.loss({**before, n: (w - 2,) * 2}) for n, (w, _) in before.items() if w > 4}
        assert losses.loss(after) <= min(shorter.values()) * 1.25  # old measurements order the others


@pytest.mark.slow("it searches")
@pytest.mark.parametrize("policy", ["per-layer", "greedy"])
def test_search(tmp_path: Path, policy: str) -> None:
    graph = networks.balanced()
    images, held_out = networks.labelled(graph, 700, 1).parted(500)
    assert images.shared_with(held_out) < 20  # tiny random images repeat
    lines = []

    class Lines(Watcher):
        def judged(self, text: str, *_: object) -> None:
            lines.append(text)

    kept_to: dict[str, Any] = {}
    if policy == "per-layer":  # the other layers cannot have 10 bits
        kept_to = {"constraints": Constraints(equal=True, fixed={graph.layers[0].name: 10})}
        kept_to["objective"] = "memory"
    result = search(
        graph,
        images,
        networks.images(64, 2, graph.shapes["input"]),
        tmp_path,
        Criterion("top1", 5.0),
        [policy],
        (3, 4, 5, 6, 8),
        held_out=held_out,
        watcher=Lines(),
        **kept_to,
    )
    # points of a path are no word lengths; those of batch normalization are
    points, bns = ([line for line in lines if kind in line] for kind in (", point ", ", bn "))
    assert points
    assert not any(line.endswith(" bits") for line in points)
    assert any(line.endswith(" bits") for line in bns)
    found = result.policies[policy]
    assert found.drop <= 5.0
    assert found.held_out.images == 200
    assert result.held_out.count == 200
    design = Design.load(tmp_path / policy / "design.json")
    image = design.layers[graph.input]
    assert image.activations == found.layers[graph.layers[0].name][1]  # no second rounding of the image
    widths = {n: (w.weights, w.activations) for n, w in design.layers.items() if n != graph.input}
    assert widths == found.layers
    sizes = product_layers(graph)
    weights = sum(one.weights for one in sizes.values())
    average = sum(sizes[n].weights * pair[0] for n, pair in found.layers.items()) / weights
    assert found.average.weight == pytest.approx(average)
    if policy == "per-layer":
        assert found.layers[graph.layers[0].name] == (10, 10)
        assert {w for name, pair in found.layers.items() for w in pair} <= {3, 4, 5, 6, 8, 10}
        costs = [point.cost for point in found.frontier]
        assert costs == sorted(costs)
        assert all(point.images == 500 for point in found.frontier)
        holding = [point.cost for point in found.frontier if point.drop <= 5.0]
        assert sum(sizes[n].weights * p[0] for n, p in found.layers.items()) == holding[0]
    assert Result.load(tmp_path / "result.json") == result


@pytest.mark.slow("it searches")
def test_by_layer_holds_where_one_length_for_all_does(tmp_path: Path) -> None:
    """With the default word lengths the longest lose next to nothing beside the shortest."""
    graph = networks.balanced()
    images = networks.labelled(graph, 500, 1)
    calibration = networks.images(64, 2, graph.shapes["input"])
    result = search(graph, images, calibration, tmp_path, Criterion("top1", 1.0), ["separate", "per-layer"])
    separate, by_layer = (result.policies[name] for name in ("separate", "per-layer"))
    assert separate.conv is not None
    assert by_layer.drop is not None
    holding = [point.cost for point in by_layer.frontier if point.drop <= 1.0]
    sizes = product_layers(graph)
    chosen = sum(sizes[name].cost(tuple(pair), "multipliers") for name, pair in by_layer.layers.items())
    assert chosen == min(holding)
    assert by_layer.frontier[-1].predicted_loss < 1e-4  # the safest is on it


def test_an_answer_below_a_dearer_failure_is_found() -> None:
    outcomes = [("fails", 9.0), ("holds", 0.5), ("fails", 1.1), ("holds", 0.2)]
    found = cheapest([(drop, verdict) for verdict, drop in outcomes])
    assert (found.word_length, found.monotone) == (1, False)
    assert found.evaluation is not None
    assert float(found.evaluation) == 0.5
    assert cheapest([(9.0, "fails")]).word_length is None


def test_losses_of_nothing() -> None:
    zero = {"a": {3: 0.0, 4: 0.0}}
    assert frontier(Sensitivity(0.0, zero, zero), {"a": Products(10, 9, 10)}, 12) == [{"a": (3, 3)}]


@pytest.mark.parametrize("short", range(1, 12))
def test_memory_is_kept_to_the_bit(short: int) -> None:
    """Where a bit is far below the solver's tolerance."""
    layers = {"a": Products(1, 1, 5_000_000), "b": Products(1, 1, 1_666_666)}
    table = {name: {3: 0.1, 4: 0.0} for name in layers}
    limit = 5_000_000 * 3 + 1_666_666 * 4 - short
    found = allocate(Sensitivity(0.0, table, table), layers, 1.0, "multipliers", Constraints(memory=limit))
    assert found is not None
    assert sum(layers[name].weights * w for name, (w, _) in found.items()) <= limit


@pytest.mark.parametrize(
    ("policies", "options", "message"),
    [
        (["joint", "per-layer"], {"constraints": Constraints(fixed={"nosuch": 8})}, "'nosuch' fixed at 8"),
        (["joint", "per-layer"], {"constraints": Constraints(memory=10)}, "10 bits for all parameters"),
        (["joint", "greedy"], {"binary_point": {"scope": "class"}}, "scope class"),
        (["per-layer"], {"constraints": Constraints(fixed={"conv0": 1})}, "fixed at 1 bits"),
        (["per-layer"], {"codes": {"weights": {"kind": "log2"}}}, "fixed-point"),
        (["joint", "minifloat"], {"word_lengths": (4, 24)}, "policy minifloat at 24 bits"),
        (["joint", "log2"], {"bn_start": 20}, "policy log2 at 2 bits, batch normalization at 20"),
        (["joint", "codebook"], {"refine": ["columns"]}, "policy codebook"),
        (["joint", "dynamic"], {"bn_start": 40}, "batch normalization at 40"),
    ],
)
def test_the_impossible_is_refused_before_any_work(
    tmp_path: Path, policies: list[str], options: dict[str, object], message: str
) -> None:
    graph = networks.balanced()
    images = networks.labelled(graph, 60, 1)
    with pytest.raises(DesignError, match=message):
        search(graph, images, images, tmp_path / "run", policies=policies, **options)
    assert not (tmp_path / "run").exists()


def test_nothing_to_equalize_is_refused_before_any_work(tmp_path: Path) -> None:
    graph = networks.mixed()
    images = networks.images(60, 1, graph.shapes["input"])
    with pytest.raises(DesignError, match="equalize: expected"):
        search(graph, images, images, tmp_path / "run", equalize=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow("it searches")
def test_lin_and_uniform_run_with_the_defaults(tmp_path: Path) -> None:
    graph = networks.balanced()
    images = networks.labelled(graph, 300, 1)
    point = {"scope": "tensor", "rule": "sqnr"}
    result = search(
        graph, images, images, tmp_path, Criterion("top1", 5.0), ["sqnr", "uniform"], binary_point=point
    )
    assert result.policies["sqnr"].conv is not None
    design = Design.load(tmp_path / "uniform" / "design.json")
    assert (design.binary_point.scope, design.binary_point.rule) == ("class", "loss")


def test_no_answer_leaves_no_network(tmp_path: Path) -> None:
    graph = networks.balanced()
    images = networks.labelled(graph, 300, 1)
    for lengths, there in (((8, 16), True), ((2,), False)):
        result = search(
            graph, images, images, tmp_path, Criterion("top1", 1.0), ["joint"], lengths, replaces=True
        )
        assert (result.policies["joint"].word_length is not None) == there
        assert (tmp_path / "joint" / "network.safetensors").exists() == there


@pytest.mark.parametrize(
    ("form", "name", "widths", "kind"),
    [
        ("folded", "batch_norm1", {"activations": 4}, "activations"),
        ("folded", "batch_norm1", {"parameters": 4}, "parameters"),
        ("affine", "batch_norm1", {"weights": 4, "parameters": 8}, "weights"),
        ("affine", "conv0", {"weights": 4, "parameters": 8}, "parameters"),
        ("affine", "input", {"weights": 4}, "weights"),
        ("affine", "add11", {"parameters": 4}, "parameters"),
        ("affine", "average_pool13", {"parameters": 4}, "parameters"),
    ],
)
def test_a_word_length_that_would_change_nothing_is_refused(
    quantizer: Quantizer, form: str, name: str, widths: dict[str, int], kind: str
) -> None:
    for rule in ("max", "loss"):
        design = Design.separate(
            8, 12, batch_norm=form, layers={name: widths}, binary_point={"rule": rule, "scope": "tensor"}
        )
        with pytest.raises(
            DesignError, match=f"layer '{name}': a word length for its {kind}, but it has none"
        ):
            quantizer.quantize(design)


def test_word_lengths_of_single_layers_take_effect(quantizer: Quantizer) -> None:
    """The same places, where the form has them."""
    for form, name, widths in (
        ("affine", "batch_norm1", {"activations": 4, "parameters": 5}),
        ("folded", "conv0", {"weights": 4, "parameters": 5}),
        ("affine", "average_pool13", {"parameters": 4}),
        ("affine", "average_pool13", {"activations": 4}),
    ):
        options = {"batch_norm": form, "average_pool": "reciprocal"}
        plain = quantizer.quantize(Design.separate(8, 12, **options))
        assert (
            quantizer.quantize(Design.separate(8, 12, **options, layers={name: widths})).digest
            != plain.digest
        )


def test_an_image_is_as_wide_as_its_widest_reader() -> None:
    """Whether an allocation names it or not."""
    n = networks.Net(0)
    first, second = n.conv("input", 4), n.conv("input", 4)
    x = n.simple("flatten", n.simple("relu", n.bn(n.add(first, second))))
    graph = n.graph(n.fc(x, 4 * 144, 7))
    design = Design.separate(8, 12)
    for allocation, expected in (
        ({first: (8, 3)}, 8),
        ({first: (8, 3), second: (8, 5)}, 5),
        ({first: (3, 9)}, 9),
    ):
        assert allocated(design, allocation, graph).layers["input"].activations == expected
    quantizer = Quantizer(graph, networks.calibrated(graph))
    losses = Losses(quantizer, design, [3, 8])
    assert losses.loss({first: (8, 3)}) == losses.loss({first: (8, 3), second: (8, 8)})


def test_overrides_of_any_layer_count_under_rule_loss() -> None:
    graph = networks.residual()
    quantizer = Quantizer(graph, networks.calibrated(graph))
    add = next(layer.name for layer in graph.layers if layer.op == "add")
    classes = {"conv": {"weights": 5, "activations": 5, "parameters": 5}}
    classes |= {"fc": {"weights": 7, "activations": 7, "parameters": 7}}
    classes |= {"bn": {"weights": 12, "activations": 12, "parameters": 12}}
    overrides = {
        add: {"activations": 20},
        "input": {"activations": 9},
        graph.output: {"weights": 9, "parameters": 11},
    }
    for rule in ("max", "loss"):
        document = {"classes": classes, "layers": overrides, "binary_point": {"rule": rule}}
        design = msgspec.convert(document, Design)
        formats = quantizer.formats(design)
        assert formats[add, "result"].word_length == 20
        assert formats["input", "result"].word_length == 9
        assert formats[graph.output, "weight"].word_length == 9
        assert formats[graph.output, "operand"].word_length == 7
        assert formats[graph.output, "bias"].word_length == 11
