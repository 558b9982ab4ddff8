"""From what runs came to, to what is told: one message per incident, and one when it is over.

What belongs here: which problems are open, which were told already, and the sentences. What does not: where runs are
read (`defs.alerts`) and how a message is posted (`webhook`). Everything is pure.

A problem is a failed step or a failed check. An incident of an account begins with its first problem and is over when
every one of them has passed again. A problem is told once in an incident, however many ticks meet it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

LINES_POSTED = 20
"""When a fleet of accounts fails at once, more lines than that are a number."""

THE_RUN = "the run"
"""The problem of a run that ended outside any step: its process was killed, or never started."""


@dataclass(frozen=True)
class Outcome:
    """What one run came to.

    Attributes:
        account: Whose tick it was.
        run_id: Dagster's.
        ended_at: When it ended, UTC.
        failed: Each step or check that failed, with the sentence that says why or what to do.
        passed: The steps and checks that passed.
    """

    account: str
    run_id: str
    ended_at: datetime
    failed: Mapping[str, str]
    passed: Collection[str]


@dataclass(frozen=True)
class Incident:
    """Something is wrong with an account.

    Attributes:
        began_at: End of the first run that met a problem, UTC.
        open: Problems that have not passed since.
        told: Problems that were told in this incident.
    """

    began_at: datetime
    open: frozenset[str]
    told: frozenset[str]


def follow(
    incidents: Mapping[str, Incident], outcomes: Iterable[Outcome]
) -> tuple[dict[str, Incident], tuple[str, ...]]:
    """The incidents, by account, after some runs, and the sentences to tell.

    Args:
        incidents: Those that are open, by account.
        outcomes: Of the runs that ended since, in order.
    """
    now_open = dict(incidents)
    sentences: list[str] = []
    for outcome in outcomes:
        incident = now_open.pop(outcome.account, None) or Incident(outcome.ended_at, frozenset(), frozenset())
        still_open = incident.open.difference(outcome.passed).union(outcome.failed)
        sentences += [
            f"{_heading(outcome.account)} {problem} failed {_where(outcome)}. {outcome.failed[problem]}"
            for problem in outcome.failed
            if problem not in incident.told
        ]
        if still_open:
            told = incident.told.union(outcome.failed)
            now_open[outcome.account] = Incident(incident.began_at, still_open, told)
        elif incident.told:
            sentences.append(
                f"{_heading(outcome.account)} all is well again {_where(outcome)}. Since {_utc(incident.began_at)} "
                f"this had failed: {', '.join(sorted(incident.told))}."
            )
    return now_open, tuple(sentences)


def message(sentences: tuple[str, ...]) -> str:
    """The sentences as one text, a line each."""
    more = len(sentences) - LINES_POSTED
    rest = (f"… and {more:,} more, which the Dagster UI shows.",) if more > 0 else ()
    return "\n".join((*sentences[:LINES_POSTED], *rest))


def _heading(account: str) -> str:
    return f"STOP list of {account}:"


def _where(outcome: Outcome) -> str:
    return f"at {_utc(outcome.ended_at)} (run {outcome.run_id[:8]})"


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
