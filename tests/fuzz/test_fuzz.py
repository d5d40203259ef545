"""A short run of every kind of damaged input; ``long_run.py`` is the long one (docs/reliability.md)."""

from __future__ import annotations

import re
from pathlib import Path

import fuzz_inputs
import long_run
import onnx_graphs
import pytest

pytestmark = pytest.mark.slow("it tries thousands of inputs")

FIRST = 1_000_000
"""Seeds of the short run are none of the long one's."""
COUNT = {"network": 300, "damaged network": 300, "onnx": 150}


@pytest.mark.parametrize("kind", fuzz_inputs.KINDS)
def test_nothing_escapes(kind: str, tmp_path: Path) -> None:
    said = [fuzz_inputs.attempt(kind, FIRST + i, tmp_path) for i in range(COUNT.get(kind, 200))]
    assert "refused" in said or kind == "network"
    assert "accepted" in said, "the inputs are so bad that nothing of what follows was tried"


def test_every_kind_has_a_long_run() -> None:
    assert list(long_run.COUNTS) == list(fuzz_inputs.KINDS)
    assert sum(long_run.COUNTS.values()) >= 100_000


def test_the_watch_sees_what_escapes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a kind that fails, one that kills its process, one that hangs."""
    import collections

    found: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    long_run.watch("no such kind", 0, 2, found, wrong)
    assert found == {"CRASHED": 2}
    assert "KeyError" in wrong[0]


def test_a_wrong_engine_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: an engine that is off by one where a value is largest."""
    run = fuzz_inputs.BlasEngine.run

    def wrong(self, images, keep=None):  # type: ignore[no-untyped-def]
        results = run(self, images, keep)
        name = self.network.output
        results[name] = results[name] - (results[name] == results[name].max())
        return results

    monkeypatch.setattr(fuzz_inputs.BlasEngine, "run", wrong)
    with pytest.raises(AssertionError, match="BlasEngine"):
        [fuzz_inputs.attempt("network", seed, Path("/nonexistent")) for seed in range(1, 10)]


@pytest.mark.parametrize("first", range(0, 24, 4))
def test_random_onnx_models(first: int, tmp_path: Path) -> None:
    """Of every operator: what was imported is onnxruntime's, and every engine gives the same integers."""
    for seed in range(first, first + 4):
        counts, _ = onnx_graphs.check(seed, tmp_path)
        assert counts


@pytest.mark.slow("it compiles")
@pytest.mark.parametrize("seed", range(6))
def test_random_onnx_models_exported(seed: int, tmp_path: Path) -> None:
    """Each export is equal, or refused by the name of a step."""
    _, results = onnx_graphs.check(seed, tmp_path, exported=True)
    for target, result in results.items():
        assert result in ("equal", "written") or re.search(r"refused: .*(expected|cannot express)", result), (
            target
        )
