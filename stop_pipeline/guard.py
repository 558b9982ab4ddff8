"""What stands between an answer and a removal.

What belongs here: how much an answer may take away. What does not: what it would take away, and what else it changes
(`merge`).
"""

from dataclasses import dataclass

from stop_pipeline.model import MAX_REMOVED_SHARE

ALWAYS_ALLOWED_REMOVALS = 20


@dataclass(frozen=True)
class Guard:
    """What stands between an answer and a removal.

    Attributes:
        max_removed_share: Of the open rows, how many one answer may take away.
        accept_removals: The most removals that a person accepts this once, whatever their share.
    """

    max_removed_share: float = MAX_REMOVED_SHARE
    accept_removals: int | None = None

    def objection(self, *, removals: int, measured_against: int, whole: bool) -> str | None:
        """Why the removals must be withheld, as a sentence; None if they can go in.

        Only an answer proven whole takes rows away, and only so many: `max_removed_share` of the rows measured against,
        or `ALWAYS_ALLOWED_REMOVALS`, but never more than half (an empty list would take all).
        """
        if removals == 0:
            return None
        if not whole:
            return "the answer is not proven whole"
        if self.accept_removals is not None:
            if removals <= self.accept_removals:
                return None
            return f"{removals:,} removals are more than the {self.accept_removals:,} accepted"
        share = int(self.max_removed_share * measured_against)
        allowed = min(max(share, ALWAYS_ALLOWED_REMOVALS), measured_against // 2)
        if removals <= allowed:
            return None
        return f"{removals:,} rows would go at once, and {allowed:,} of {measured_against:,} may"
