"""Rules: how the binary point of every quantized place is chosen. A user may add one.

::

    class Widest:                          # a binary point that leaves two bits of headroom
        scopes = frozenset({"tensor"})
        def needs(self, shared): return frozenset()
        def choose(self, question): ...    # a format for every site of the question

    add_rule("widest", Widest())
    Design.joint(8, binary_point={"rule": "widest"})
"""

from __future__ import annotations

from radixpoint.errors import DesignError
from radixpoint.quantization.design import RULE_SCOPES
from radixpoint.quantization.rules.loss import ByLoss
from radixpoint.quantization.rules.output_error import ByOutputError
from radixpoint.quantization.rules.question import Question, Rule
from radixpoint.quantization.rules.statistic import ByStatistic
from radixpoint.quantization.sites import Formats

RULES: dict[str, Rule] = {
    "max": ByStatistic("max"),
    "percentile": ByStatistic("percentile"),
    "mse": ByStatistic("mse"),
    "sqnr": ByOutputError(),
    "loss": ByLoss(),
}


def add_rule(name: str, rule: Rule) -> None:
    """Make a rule known: designs may name it.

    Raises:
        DesignError: there is one of that name.
    """
    if name in RULES:
        raise DesignError(f"rule {name!r}: expected a name that no rule has yet")
    RULES[name], RULE_SCOPES[name] = rule, rule.scopes


def choose_formats(question: Question) -> Formats:
    """A format for every quantized place, by the design's rule.

    Raises:
        DesignError: a layer without a word length.
    """
    rule = RULES[question.design.binary_point.rule]
    for need in sorted(rule.needs(question.shared)):
        if getattr(question, need) is None:
            raise ValueError(f"rule {question.design.binary_point.rule!r} needs {need}")
    return rule.choose(question)
