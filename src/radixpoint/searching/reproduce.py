"""Published claims, searched for again: Kang's (2018) on He's ResNet-50 and ImageNet's validation images.

The paper says: one representation for all of ResNet-50 needs 16 bits, and with one of its own for batch
normalization the convolutions need 10, without retraining. What a representation shares, and which form batch
normalization has, is not in its abstract; so every scope and form is searched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from radixpoint.data import ImageSet
from radixpoint.errors import DesignError
from radixpoint.files import write_whole
from radixpoint.ir.graph import Graph
from radixpoint.measure.metrics import TopK, find_metric
from radixpoint.quantization.design import BatchNorm, Scope
from radixpoint.searching.criterion import Criterion
from radixpoint.searching.executors import Executor
from radixpoint.searching.result import PolicyResult, Result
from radixpoint.searching.task import search
from radixpoint.searching.watcher import Watcher

CLAIM = {"joint": 16, "conv": 10}
"""Bits, by Kang (2018)."""
SCOPES: tuple[str, ...] = get_args(Scope)
FORMS: tuple[str, ...] = get_args(BatchNorm)
PAGE = "kang2018.md"


@dataclass(frozen=True)
class Reproduction:
    """Searches by (scope, form), and the images that they were judged on."""

    found: Mapping[tuple[str, str], Result]

    def page(self) -> str:
        """The paper's claim beside what was found, as Markdown."""
        first = next(iter(self.found.values()))
        criterion = first.criterion
        limit = f"{criterion.limit:g} {'%' if criterion.relative else 'points'} of {criterion.metric}"
        lines = [
            "# Kang (2018): separate representations for batch normalization",
            "",
            f"Judged on {first.images.count:,} images; float: top-1 {first.floating.top1:.2f} %, top-5 "
            f"{first.floating.top5:.2f} %. Each cell is the smallest word length that loses at most "
            f"{limit}, with the",
            "paired 95 % interval of its drop.",
            "",
            "| scope | form | one for everything, bits | drop | convolutions / bn, bits | drop |",
            "|---|---|---|---|---|---|",
            f"| the paper | | {CLAIM['joint']} | | {CLAIM['conv']} / - | |",
        ]
        for (scope, form), result in self.found.items():
            joint, separate = result.policies["joint"], result.policies["separate"]
            most = result.word_lengths[-1]
            lines.append(
                f"| {scope} | {form} | {joint.word_length or f'> {most}'} | {_drop(joint)} | "
                f"{separate.conv or f'> {most}'} / {separate.bn or '-'} | {_drop(separate)} |"
            )
        lines += ["", f"The claim is found where everything takes {CLAIM['joint']} bits and the convolutions "
                  f"{CLAIM['conv']}: {self._verdict()}", ""]  # fmt: skip
        return "\n".join(lines)

    def _verdict(self) -> str:
        exact, fewer = [], []
        for key, result in self.found.items():
            joint, conv = result.policies["joint"].word_length, result.policies["separate"].conv
            if joint == CLAIM["joint"] and conv == CLAIM["conv"]:
                exact.append(key)
            if isinstance(joint, int) and isinstance(conv, int) and conv < joint:
                fewer.append(key)
        named = ", ".join(f"{scope} {form}" for scope, form in exact) or "in no row"
        return (
            f"{named}. Separation takes bits off the convolutions in {len(fewer)} of {len(self.found)} rows."
        )


def _drop(policy: PolicyResult) -> str:
    if policy.drop is None or policy.drop_interval is None:
        return "-"
    low, high = policy.drop_interval
    return f"{policy.drop:+.2f} [{low:+.2f}, {high:+.2f}]"


def kang2018(
    graph: Graph,
    images: ImageSet,
    calibration: ImageSet,
    folder: str | Path,
    criterion: Criterion | None = None,
    scopes: Sequence[str] = SCOPES,
    forms: Sequence[str] = FORMS,
    watcher: Watcher | None = None,
    executor: str | Executor = "here",
    **more: Any,
) -> Reproduction:
    """Search every scope and form, with one cache, and write the page.

    Args:
        graph: the network, with its batch normalization.
        images: to judge on.
        calibration: to choose binary points from.
        folder: a run folder for each search goes into it, and ``kang2018.md``.
        criterion: default 1.0 percentage point of top-1.
        scopes, forms: which to search.
        watcher: told how it goes.
        executor: who evaluates; a name, since each search opens its own.
        more: further arguments of ``radixpoint.search``.

    Raises:
        DataError, DesignError, RunError: as ``radixpoint.search``.
    """
    asked = criterion or Criterion()
    if not isinstance(find_metric(asked.metric), TopK):
        raise DesignError(f"metric {asked.metric}: the paper's claim is of classes: expected top1 or top5")
    found: dict[tuple[str, str], Result] = {}
    place = Path(folder)
    for scope in scopes:
        for form in forms:
            found[scope, form] = search(
                *(graph, images, calibration, place / f"{scope}-{form}", criterion),
                cache=place / "cache",
                watcher=watcher,
                executor=executor,
                batch_norm=form,
                binary_point={"scope": scope},
                **more,
            )
    result = Reproduction(found)
    write_whole(place / PAGE, result.page().encode())
    return result
