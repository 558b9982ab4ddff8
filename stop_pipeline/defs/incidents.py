"""What went wrong and what passed, as messages: each problem once per incident, and one message when all is well again.

A problem is a failed step, a failed check, or a list that is overdue. An incident of an account begins with its first
problem and is over when every one of them has passed again. Pure functions.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

LINES_POSTED = 20
"""When many accounts fail at once, the lines beyond these are only counted."""

THE_RUN = "the run"
"""The problem of a run that ended outside any step: its process was killed, or never started."""

OVERDUE = "overdue list"
"""The problem of an account that has had no complete list for too long, whatever the reason."""


@dataclass(frozen=True)
class Outcome:
    """What is known about an account at one time, such as the end of a run.

    Attributes:
        account: Account name.
        at: The time, UTC.
        failed: Each problem, and the sentences that say what failed, why, and what to do.
        passed: Problems that there are not.
    """

    account: str
    at: datetime
    failed: Mapping[str, str]
    passed: Collection[str]


@dataclass(frozen=True)
class Incident:
    """Something is wrong with an account.

    Attributes:
        began_at: Time of the first problem, UTC.
        open: Problems that have not passed since.
        told: Problems that were told in this incident.
    """

    began_at: datetime
    open: frozenset[str]
    told: frozenset[str]


def follow(
    incidents: Mapping[str, Incident], outcomes: Iterable[Outcome]
) -> tuple[dict[str, Incident], tuple[str, ...]]:
    """Follow the incidents through some outcomes.

    Args:
        incidents: The open incidents, by account.
        outcomes: Outcomes in the order of their times.

    Returns:
        The incidents that are open then, and the messages to post.
    """
    now_open = dict(incidents)
    messages: list[str] = []
    for outcome in outcomes:
        incident = now_open.pop(outcome.account, None) or Incident(outcome.at, frozenset(), frozenset())
        still_open = incident.open.difference(outcome.passed).union(outcome.failed)
        heading = f"STOP list of {outcome.account}:"
        messages += [
            f"{heading} {sentences}" for problem, sentences in outcome.failed.items() if problem not in incident.told
        ]
        if still_open:
            told = incident.told.union(outcome.failed)
            now_open[outcome.account] = Incident(incident.began_at, still_open, told)
        elif incident.told:
            since = f"Problems since {_utc(incident.began_at)}: {', '.join(sorted(incident.told))}."
            messages.append(f"{heading} all is well again at {_utc(outcome.at)}. {since}")
    return now_open, tuple(messages)


def failure(problem: str, reason: str, *, at: datetime, run_id: str) -> str:
    """The sentences about a step or check that failed."""
    return f"{problem} failed at {_utc(at)} (run {run_id[:8]}). {reason}"


def overdue(verified_at: datetime | None, limit: timedelta) -> str:
    """The sentences about a list that is overdue."""
    last = "there has been none yet" if verified_at is None else f"the last one is of {_utc(verified_at)}"
    return (
        f"no complete list was synced for more than {limit / timedelta(hours=1):g} h; {last}. Look at Runs and "
        "Automation in the Dagster UI: runs may be failing or queued, the schedule may be off, or no API key is set."
    )


def joined(messages: tuple[str, ...]) -> str:
    """The messages as one text, a line each."""
    more = len(messages) - LINES_POSTED
    rest = (f"… and {more:,} more, which the Dagster UI shows.",) if more > 0 else ()
    return "\n".join((*messages[:LINES_POSTED], *rest))


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
