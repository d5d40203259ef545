"""Draws ``architecture.svg``: the wings in their order, and which imports from which, as the code has it.

An import that follows from others is left out: ``cli`` imports from ``errors`` too.

    pip install matplotlib && python docs/house.py
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from pathlib import Path

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "radixpoint"


def wings() -> list[str]:
    """As the page lists them."""
    page = (DOCS / "architecture.md").read_text()
    return re.findall(r"^\| `(\w+)(?:\.py|/)` \|", page, re.M)


def imported() -> dict[str, list[str]]:
    """By wing: other wings that its modules import when they are loaded."""
    order = wings()
    found: dict[str, set[str]] = {wing: set() for wing in order}
    for path in SOURCE.rglob("*.py"):
        wing = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if wing not in found:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("radixpoint."):
                found[wing].add((node.module or "").split(".")[1])
    return {wing: [other for other in order if other in found[wing] - {wing}] for wing in order}


def reduced(arrows: dict[str, list[str]]) -> dict[str, list[str]]:
    """Without imports that follow from others: those of what a wing imports."""
    reached: dict[str, set[str]] = {}
    for wing, others in arrows.items():  # in order, so what it imports is known
        reached[wing] = {*others, *(far for other in others for far in reached[other])}
    return {
        wing: [one for one in others if not any(one in reached[other] for other in others)]
        for wing, others in arrows.items()
    }


def digest(arrows: dict[str, list[str]]) -> str:
    """Of what the picture shows."""
    return hashlib.sha256(json.dumps(arrows).encode()).hexdigest()[:16]


def draw(arrows: dict[str, list[str]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "radixpoint", "svg.fonttype": "none", "font.size": 11})
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyArrowPatch

    figure, axis = plt.subplots(figsize=(4, 5.5))
    place = {wing: -number for number, wing in enumerate(arrows)}
    colours = plt.get_cmap("tab20")
    for number, (wing, others) in enumerate(arrows.items()):
        axis.text(0, place[wing], wing, ha="right", va="center", family="monospace")
        for other in others:
            far = place[other] - place[wing]
            curve = f"arc3,rad={0.3 if far > 1 else 0.0}"
            axis.add_patch(
                FancyArrowPatch(
                    (0.15, place[wing]),
                    (0.15, place[other]),
                    connectionstyle=curve,
                    arrowstyle="-|>",
                    mutation_scale=8,
                    color=colours(number),
                    linewidth=1.5,
                )
            )
    axis.set_xlim(-2.2, 1.5)
    axis.set_ylim(-len(arrows) + 0.5, 0.5)
    axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None, "Description": digest(arrows)})


if __name__ == "__main__":
    draw(reduced(imported()), DOCS / "architecture.svg")
