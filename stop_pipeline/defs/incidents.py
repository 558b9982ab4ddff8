"""What went wrong and what passed, as messages: each problem once per incident, and one message when all is well again.

A problem is a failed step, a failed check, or a list that is overdue. An incident of an account begins with its first
problem and is over when every one of them has passed again. Pure functions.
"""

from collections.abc import Iterable, Mapping, Sequence
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
    """What is known about an account at one time, such as the end of a run."""

    account: str
    at: datetime  # UTC
    problems: Mapping[str, str | None]  # what failed, why and what to do, as sentences; None for what passed


@dataclass(frozen=True)
class Incident:
    """Something is wrong with an account."""

    began_at: datetime  # time of the first problem, UTC
    open: frozenset[str]  # problems that have not passed since
    told: frozenset[str]  # problems that were told in this incident


def follow(
    incidents: Mapping[str, Incident], outcomes: Iterable[Outcome]
) -> tuple[dict[str, Incident], tuple[str, ...]]:
    """Follow the open incidents, by account, through outcomes in the order of their times.

    Returns:
        The incidents that are open then, and the messages to post.
    """
    now_open = dict(incidents)
    messages: list[str] = []
    for outcome in outcomes:
        incident = now_open.pop(outcome.account, None) or Incident(outcome.at, frozenset(), frozenset())
        failed = {problem: sentences for problem, sentences in outcome.problems.items() if sentences is not None}
        heading = f"STOP list of {outcome.account}:"
        messages += [f"{heading} {sentences}" for problem, sentences in failed.items() if problem not in incident.told]
        if still_open := incident.open.difference(outcome.problems).union(failed):
            now_open[outcome.account] = Incident(incident.began_at, still_open, incident.told.union(failed))
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


def joined(messages: Sequence[str]) -> str:
    """The messages as one text, a line each."""
    more = len(messages) - LINES_POSTED
    rest = [f"… and {more:,} more, which the Dagster UI shows."] if more > 0 else []
    return "\n".join([*messages[:LINES_POSTED], *rest])


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
