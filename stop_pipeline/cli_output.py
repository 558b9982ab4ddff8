"""What `run`, `suppress` and `sandbox` print, as text."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

_COUNTS = ("listed", "new", "changed", "removed", "restored", "rejected")
_HOW_TO_LOOK = (
    "To see them: in stop_pipeline.read_stops() the phone_number does not start with a “+”, in "
    "stop_pipeline.read_rejected() it is null."
)


def counted(count: int, what: str) -> str:
    """A number and its noun: “1 row”, “2,000 rows”."""
    return f"{count:,} {what}" + "s" * (count != 1)


def sync_line(account: str, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """What one sync did.

    Args:
        account: Account name.
        figures: The metadata of each asset and check, by name.
    """
    stops = figures["stops"]
    counts = ", ".join(f"{stops[name]:,} {name}" for name in _COUNTS)
    withheld = f", {counted(stops['withheld'], 'removal')} withheld" if stops["withheld"] else ""
    parts = [counts + withheld, f"{counted(stops['months_written'], 'month')} written"]
    if stops.get("reread"):
        parts.append("stored rows were read again, because the reading rules or a setting changed")
    if unreadable := figures.get("numbers_readable", {}).get("unreadable_rows"):
        parts.append(f"{counted(unreadable, 'listed row')} without a phone number")
    return f"{account}: {'; '.join(parts)}."


def suppressed_lines(
    campaign: Path,
    out: Path,
    *,
    form: str,
    rows: int,
    parts: Mapping[str, tuple[Path, int]],
    verified_at: datetime,
    unreadable_rows: int,
) -> str:
    """What `suppress` did with a campaign; for what the values are, see `campaign.SuppressedFile`."""
    counts = " + ".join(f"{count:,} {name}" for name, (_, count) in parts.items())
    lines = [f"{campaign} ({form}): {counted(rows, 'row')} = {counts}."]
    if unreadable_rows:
        lines.append(f"{counted(unreadable_rows, 'listed row')} without a phone number blocked nobody. {_HOW_TO_LOOK}")
    lines.append(f"The list was verified at {verified_at:%Y-%m-%d %H:%M} UTC. The files are in {out}:")
    return "\n".join([*lines, *(f"  {path.name}" for path, _ in parts.values())])


def sandbox_instructions(base_url: str, variables: Mapping[str, str]) -> str:
    """How to use the stand-in."""
    exports = "".join(f"  export {name}={value}\n" for name, value in variables.items())
    return (
        f"A stand-in for SMS Partner listens at {base_url}. To use it, in another terminal:\n\n{exports}"
        "  stop-pipeline run\n\nCtrl-C ends it."
    )
