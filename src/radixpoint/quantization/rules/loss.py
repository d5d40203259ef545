"""Rule ``loss``: class probabilities nearest to those of float on calibration images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from radixpoint.quantization.design import SCOPES
from radixpoint.quantization.rules.output_error import by_output
from radixpoint.quantization.rules.question import Group, Need, Question, formats_of
from radixpoint.quantization.rules.statistic import own_formats, shared_fraction
from radixpoint.quantization.sites import Formats

_PERCENTILES = (100.0, 99.99, 99.97, 99.95, 99.9, 99.85, 99.8, 99.7, 99.5)
"""Shares of activations that are in turn kept from saturating, where no binary point is shared."""


class ByLoss:
    """Shared binary points start from ``mse`` and move one at a time while that lowers the loss. Where each
    tensor has its own, one share of activations that may not saturate is chosen for all, then ``max`` or
    ``mse`` for parameters, or ``sqnr`` for weights; or ``sqnr`` for weights and what they multiply."""

    scopes = SCOPES

    def needs(self, shared: bool) -> frozenset[Need]:
        """The loss; and patches, where each tensor has its own binary point."""
        return frozenset({"loss"} if shared else {"loss", "patches"})

    def choose(self, question: Question) -> Formats:
        """See ``radixpoint.quantization.rules.question.Rule``."""
        loss = question.loss
        if loss is None:
            raise ValueError("rule 'loss' needs a loss")
        if question.shared:
            groups = question.groups
            point = question.design.binary_point
            start = {group: shared_fraction(own, point) for group, own in groups.items()}
            best = _descend(start, lambda fractions: loss(formats_of(groups, fractions)))
            return formats_of(groups, best)
        point = question.design.binary_point
        plain, mse = (replace(point, rule=rule) for rule in ("max", "mse"))
        everywhere = by_output(question, own_formats(question, mse), operands=True)
        shares = {share: replace(point, rule="percentile", percentile=share) for share in _PERCENTILES}
        first = {share: own_formats(question, plain, at_share) for share, at_share in shares.items()}
        share = min(first, key=lambda share: loss(first[share]))
        candidates = [
            first[share],
            own_formats(question, mse, shares[share]),
            by_output(question, first[share], operands=False),
            everywhere,
        ]
        return min(candidates, key=loss)


def beside(question: Question, base: Formats) -> Formats:
    """Formats of results and parameters beside what is multiplied, whose formats stay as they are.

    A place with another word length than it has in ``base`` takes the range that it has there, or that which
    holds a share of the values seen there, or the one by rule ``mse``: all places alike, whichever brings the
    answers nearest to float. Ranges of the first two kinds do not depend on word lengths: one bit more makes
    the grid finer.

    Args:
        question: of the design, for rule ``loss``, with a binary point for each tensor or channel.
        base: formats of the same design with other words between what is multiplied.
    """
    loss = question.loss
    assert loss is not None
    point = question.design.binary_point
    others = [site for site in question.sites if site.word_length != base[site.key].word_length]
    if not others:
        return base

    def chosen(formats: Formats) -> Formats:
        return {**base, **{site.key: formats[site.key] for site in others}}

    plain, mse = (replace(point, rule=rule) for rule in ("max", "mse"))
    candidates = [finer(question, base), chosen(own_formats(question, mse))]
    for share in _PERCENTILES:
        at_share = replace(point, rule="percentile", percentile=share)
        candidates.append(chosen(own_formats(question, plain, at_share)))
    return min(candidates, key=loss)


def finer(question: Question, base: Formats) -> Formats:
    """The formats with the question's word lengths and the ranges that they have."""
    found = dict(base)
    for site in question.sites:
        own = base[site.key]
        more = site.word_length - own.word_length
        found[site.key] = site.format(tuple(f + more for f in own.fraction_lengths))
    return found


def wider(question: Question, base: Formats) -> Formats:
    """The formats with the question's word lengths and the binary points that they have."""
    return {site.key: site.format(base[site.key].fraction_lengths) for site in question.sites}


def _descend(start: dict[Group, int], loss: Callable[[Mapping[Group, int]], float]) -> dict[Group, int]:
    """Coordinate descent: move each shared binary point up or down by one while the loss falls."""
    best, best_loss = dict(start), loss(start)
    improved = True
    while improved:
        improved = False
        for group in start:
            for step in (1, -1):
                while True:
                    trial = {**best, group: best[group] + step}
                    trial_loss = loss(trial)
                    if trial_loss >= best_loss:
                        break
                    best, best_loss, improved = trial, trial_loss, True
    return best
