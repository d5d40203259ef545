"""What a rule for binary points is asked, and what a rule is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

from radixpoint.ir.graph import Graph
from radixpoint.measure.calibrate import Ranges
from radixpoint.quantization.design import Design, Scope
from radixpoint.quantization.patches import Patches
from radixpoint.quantization.sites import Formats, Key, Site, Stored, sites

Group = tuple[str, ...]
"""Who shares a binary point: () the network, (class, kind), (layer, role)."""
Need = Literal["loss", "patches"]


@dataclass(frozen=True)
class Question:
    """Which binary point has each quantized place of a network under a design?

    Attributes:
        graph: the network.
        ranges: of its tensors.
        design: what to quantize and how.
        stored: the parameters under the design's form of batch normalization.
        loss: how far the network's answers are from float's, under given formats; for rules that need it.
        patches: of the float network; likewise.
        best: the binary points of layers that ``radixpoint.quantization.rules.output_error`` found before,
            for the same stored parameters and patches, by what they depend on.
    """

    graph: Graph
    ranges: Ranges
    design: Design
    stored: Mapping[Key, Stored]
    loss: Callable[[Formats], float] | None = None
    patches: Callable[[], Patches] | None = None
    best: dict[tuple[object, ...], tuple[int, tuple[int, ...]]] = field(default_factory=dict)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Every quantized place.

        Raises:
            DesignError: a layer without a word length.
        """
        return tuple(sites(self.graph, self.ranges, self.design, self.stored))

    @property
    def shared(self) -> bool:
        """Whether several tensors share a binary point."""
        return self.design.binary_point.scope in ("network", "class")

    @property
    def groups(self) -> dict[Group, list[Site]]:
        """Places that share a binary point, where they do."""
        found: dict[Group, list[Site]] = {}
        for site in self.sites:
            found.setdefault(_group(site, self.design), []).append(site)
        return found

    def by_channel(self, site: Site) -> bool:
        """Whether each channel of the place has a binary point of its own."""
        return site.by_channel and self.design.binary_point.scope == "channel"


class Rule(Protocol):
    """How binary points are chosen.

    Attributes:
        scopes: who may share one under this rule.
        needs: what ``Question`` must hold for it, where no binary point is shared, or where one is.
    """

    scopes: frozenset[Scope]

    def needs(self, shared: bool) -> frozenset[Need]:
        """What the question must hold; ``shared``: whether tensors share binary points."""
        ...

    def choose(self, question: Question) -> Formats:
        """A format for every quantized place.

        Raises:
            DesignError: a layer without a word length.
        """
        ...


def formats_of(groups: Mapping[Group, list[Site]], fractions: Mapping[Group, int]) -> Formats:
    """Formats of places that share binary points."""
    return {site.key: site.format((fractions[group],)) for group, site in _members(groups)}


def _members(groups: Mapping[Group, list[Site]]) -> Iterator[tuple[Group, Site]]:
    for group, members in groups.items():
        for site in members:
            yield group, site


def _group(site: Site, design: Design) -> Group:
    match design.binary_point.scope:
        case "network":
            return ()
        case "class":
            # add, pool and input share their fallback's group unless they have widths of their own
            cls = site.layer_class
            if cls not in design.classes:
                cls = {"fc": "conv", "input": "conv"}.get(cls, "bn")
            return (cls, site.kind)
        case _:
            return site.key
