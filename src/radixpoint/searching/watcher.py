"""Who is told how a search goes on."""

from __future__ import annotations

import warnings

from radixpoint.measure.evaluate import Evaluation
from radixpoint.searching.criterion import Verdict


class Watcher:
    """Told how a search goes on; this one keeps quiet, but for warnings."""

    def stage(self, text: str, images: int, images_left: int) -> None:
        """A stage begins: of ``images`` images, with at most ``images_left`` after it."""

    def progress(self, images: int) -> None:
        """So many images of the stage are done."""

    def judged(self, text: str, evaluation: Evaluation, verdict: Verdict, cached: bool) -> None:
        """A design was judged."""

    def warned(self, text: str) -> None:
        """Something makes the result worth less than it looks."""
        warnings.warn(text, stacklevel=4)
