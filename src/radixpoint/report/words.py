"""Sentences and numbers of the report."""

from __future__ import annotations

from msgspec import UNSET

from radixpoint.errors import RadixpointError
from radixpoint.measure.metrics import find_metric
from radixpoint.searching.result import PolicyResult, Result


def unit_of(result: Result) -> str:
    """Unit of a drop: ``points``, ``dB`` ...; nothing where the metric is not known here."""
    try:
        return find_metric(result.criterion.metric).unit
    except RadixpointError:
        return ""


def number(value: float, unit: str = "points") -> str:
    """A drop, with its sign: percentage points by their hundredths, anything else by its first digits."""
    return f"{value:+.2f}" if unit == "points" else f"{value:+.4g}"


def drop(value: float, unit: str) -> str:
    """A drop with its sign and its unit, if it has one."""
    return amount(number(value, unit), unit)


def interval(bounds: tuple[float, float], unit: str) -> str:
    """A 95 % interval of a drop."""
    return f"{number(bounds[0], unit)} to {number(bounds[1], unit)}"


def lengths(policy: PolicyResult) -> str:
    """The word lengths of an answer, in words."""
    if policy.word_length is not UNSET:
        return f"{policy.word_length} bits everywhere"
    if policy.average is not UNSET and policy.conv is None:
        mean = policy.average
        return (
            f"{mean.weight:.2f} bits for weights and {mean.operand:.2f} for what they multiply, on average, "
            f"and {policy.bn} for batch normalization"
        )
    return f"{policy.conv} bits for the convolutions and {policy.bn} for batch normalization"


def holding(result: Result) -> dict[str, PolicyResult]:
    """Policies that found an answer, the cheapest first; those without a cost last."""
    found = {name: policy for name, policy in result.policies.items() if policy.holds}

    def rank(name: str) -> float:
        cost = found[name].multiplier_cost
        return float(cost) if isinstance(cost, int) else float("inf")

    return {name: found[name] for name in sorted(found, key=rank)}


def metric(result: Result) -> str:
    """The metric's name as people write it."""
    return {"top1": "top-1", "top5": "top-5"}.get(result.criterion.metric, result.criterion.metric)


def amount(value: str, unit: str) -> str:
    """A number with its unit."""
    return f"{value} {'point' if unit == 'points' and value in ('1', '-1') else unit}".rstrip()


def limit(result: Result) -> str:
    """The limit, in words."""
    criterion = result.criterion
    if criterion.relative:
        return f"{criterion.limit:g} % of the float network's {metric(result)}"
    return f"{amount(f'{criterion.limit:g}', unit_of(result))} of {metric(result)}"


def answer(result: Result) -> str:
    """What was found, in a sentence or two."""
    found, unit = holding(result), unit_of(result)
    if not found:
        return (
            f"No design with word lengths up to {result.word_lengths[-1]} bits keeps the drop within "
            f"{limit(result)} on {result.images.count:,} images."
        )
    name, best = next(iter(found.items()))
    assert best.drop is not None
    assert best.drop_interval is not None
    text = (
        f"{lengths(best)} are enough: the drop is {drop(best.drop, unit)} (95 % interval: "
        f"{interval(best.drop_interval, unit)}) on "
        f"{result.images.count:,} images, within the limit of {limit(result)}."
    )
    if name != "joint" and isinstance(best.relative_cost, float):
        joint = result.policies["joint"]
        text += (
            f" One word length for everything must be {joint.word_length} bits; these multipliers cost "
            f"{best.relative_cost:.2f} of those."
        )
    return text


def caution(result: Result) -> str | None:
    """What makes the answer worth less than it looks, or None."""
    if result.criterion.confidence is not None:
        return None
    if result.held_out is not None:
        return "The drop on images that took no part stands beside it, in the table."
    return (
        "The design was chosen on these images, so its drop on others is likely to be a little larger. "
        "--held-out reports on others; --confidence allows for it."
    )
