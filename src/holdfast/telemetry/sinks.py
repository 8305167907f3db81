"""Where a person sees how far training is: one line, rewritten in place."""

from __future__ import annotations

import math
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from holdfast.errors import printable
from holdfast.telemetry.records import Outlook

BEFORE = "reading the table and planning: seasons, context, anchors"
PLAIN_LINES = 10  # how many lines a run prints where nothing can be rewritten (a log file)


class ProgressLine:
    """Shows each `Outlook` on one line of a terminal; elsewhere prints about ten lines over the whole run.

    Before the first one it says what takes that long.

    Args:
        console: Where to.

    Example:
        >>> import io
        >>> console = Console(file=io.StringIO(), width=120)
        >>> with ProgressLine(console) as show:
        ...     pass
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        rewritable = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(_line(BEFORE), console=console, refresh_per_second=4) if rewritable else None
        self._printed = 0  # tenths of the run

    def __enter__(self) -> ProgressLine:
        if self._live is not None:
            self._live.start(refresh=True)
        else:
            self.console.print(BEFORE, highlight=False, soft_wrap=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, outlook: Outlook) -> None:
        """Show how far training is, and above it what else happened."""
        for words in outlook.news:
            self.console.print(printable(words, keep="\n"), highlight=False, soft_wrap=True, markup=False)
        if self._live is not None:
            self._live.update(_line(progress_text(outlook)))
            return
        tenth = PLAIN_LINES * outlook.step // max(outlook.planned_steps, 1)
        if tenth > self._printed or outlook.step == 1:
            self._printed = tenth
            self.console.print(progress_text(outlook), highlight=False, soft_wrap=True)


def _line(words: str) -> Text:
    return Text(words, no_wrap=True, overflow="ellipsis")


def progress_text(outlook: Outlook) -> str:
    """One line that fits into 80 columns: step, loss, skill, gradient norm, clip fraction, time left.

    Example:
        >>> from holdfast.telemetry import StepRecord
        >>> record = StepRecord(step=5, loss=0.5, lr=0.001, total_norm=2.0, clipped_norm=1.0, clip_coef=0.5,
        ...     cosine=1.0, role_norms={}, role_coefs={}, role_clipped_norms={}, clipped=True, skipped=False,
        ...     nonfinite=(), seconds=0.01)
        >>> progress_text(Outlook(5, 10, record, None, 0.2, 65.0))
        'step 5/10  loss 0.5  skill -  grad norm 2  clip 20 %  1:05 left'
    """
    record, validation = outlook.record, outlook.validation
    skill = "-" if validation is None else f"{validation.skill:.3f}"
    clip = "-" if math.isnan(outlook.clip_fraction) else f"{100 * outlook.clip_fraction:.0f} %"
    minutes, seconds = divmod(round(outlook.seconds_left), 60)
    state = "  SKIPPED: not finite" if record.skipped else ""
    return (
        f"step {outlook.step}/{outlook.planned_steps}  loss {record.loss:.4g}  skill {skill}  "
        f"grad norm {record.total_norm:.3g}  clip {clip}  {minutes}:{seconds:02d} left{state}"
    )
