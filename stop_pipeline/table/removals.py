"""The removal policy: how many open rows may end, and the sentence that says why they may not."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from stop_pipeline.errors import counted
from stop_pipeline.table.state import Removal

MAX_REMOVED_SHARE = 0.05
ALWAYS_ALLOWED = 20
WINDOW = timedelta(hours=24)


@dataclass(frozen=True)
class RemovalPolicy:
    """How many open rows may end without a person's word.

    Within 24 hours `max_removed_share` of the rows that were open at their beginning may end, or `ALWAYS_ALLOWED` rows
    if that is more, but never more than half.
    """

    max_removed_share: float = MAX_REMOVED_SHARE
    accept_removals: int | None = None  # the largest number of ends that a person allows this once

    def objection(
        self,
        *,
        vanished: int,
        altered: int,
        complete: bool,
        open_rows: int,
        withheld_from: int | None,
        recent: Sequence[Removal],
    ) -> str | None:
        """Why the ends must be withheld, as a part of a sentence; None if they can be applied.

        Args:
            vanished: Open rows that are no longer listed.
            altered: Open rows whose `id` is listed with another number or time.
            complete: Whether the response is complete.
            open_rows: Open rows before this response.
            withheld_from: Open rows when withholding began; None if nothing is withheld. What has been added since does
                not raise the allowance, or the next response would remove what this one may not.
            recent: Removals of the last 24 hours.
        """
        ends = vanished + altered
        if ends == 0:
            return None
        if not complete:
            return "the response is not complete"
        what = f"{counted(vanished, 'row')} no longer listed and {counted(altered, 'row')} altered"
        if self.accept_removals is not None:
            if ends <= self.accept_removals:
                return None
            return f"{what} are more than the {self.accept_removals:,} accepted"
        used = sum(removal.rows for removal in recent)
        before = used + (open_rows if withheld_from is None else min(open_rows, withheld_from))
        measured_against = min(before, recent[0].open_rows) if recent else before
        share = int(self.max_removed_share * measured_against)
        allowed = min(max(share, ALWAYS_ALLOWED), measured_against // 2)
        if ends + used <= allowed:
            return None
        already = f", after {counted(used, 'row')} that ended already" if used else ""
        return f"{what}{already}, exceed the {allowed:,} of {measured_against:,} that may end within 24 hours"


def recent_removals(removals: Sequence[Removal], at: datetime) -> tuple[Removal, ...]:
    """The removals of the 24 hours before a time."""
    return tuple(removal for removal in removals if removal.at > at - WINDOW)
