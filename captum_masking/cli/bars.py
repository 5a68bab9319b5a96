"""Progress bars where nobody watches: in a log they are a line now and then, without a bar."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from typing import Any, TextIO

_EVERY_S = 30.0
_LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


@contextmanager
def bars_for_logs() -> Iterator[None]:
    """Let every tqdm bar write whole lines, the first, the last and one each 30 seconds.

    Does nothing where standard error is a terminal. Only the commands call it: a library must not
    change its host's bars.

    Source:
        Own; tqdm's defaults are changed as its documentation does it, by ``partialmethod``.
    """
    from tqdm import tqdm

    if sys.stderr.isatty():
        yield
        return
    before = tqdm.__init__
    tqdm.__init__ = partialmethod(
        before,
        file=Lines(sys.stderr),
        mininterval=_EVERY_S,
        maxinterval=_EVERY_S,
        bar_format=_LINE,
    )
    try:
        yield
    finally:
        tqdm.__init__ = before


class Lines:
    r"""A stream on which a bar that is drawn over itself becomes lines, none of them twice.

    Args:
        stream: Where they go.

    Source:
        Own.

    Example:
        >>> lines = Lines(sys.stdout)
        >>> lines.write("\repoch: 1/2 \repoch: 2/2\n\n")
        epoch: 1/2
        epoch: 2/2
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._last = ""

    def write(self, text: str) -> None:
        """Write what is new, without movements of the cursor."""
        for piece in re.split(r"[\r\n]+", text):
            line = re.sub(r"\x1b\[\w*", "", piece).strip()
            if line and line != self._last:
                self.stream.write(f"{line}\n")
                self._last = line

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
