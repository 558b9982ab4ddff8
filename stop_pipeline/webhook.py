"""Posting a message to a webhook that takes Slack's JSON.

What belongs here: one POST, and the typed error that says why it was not taken. What does not: what is told, and when
(`incidents`, `defs.alerts`). The address is a secret, and is in no message and no log.
"""

from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from stop_pipeline.client import redacted_logs
from stop_pipeline.errors import AlertError

TIMEOUT_SECONDS = (5, 15)
"""To connect, and for the answer. Together less than the minute that Dagster gives a sensor."""


def post(url: str, text: str) -> None:
    """Post `text` as `{"text": …}`, which Slack, Mattermost, Rocket.Chat and others show.

    Raises:
        AlertError: the webhook could not be reached, or did not answer with a status of success.
    """
    parts = urlsplit(url)
    # As Slack asks: these three are its markup.
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    secrets = tuple(secret for secret in (url, parts.path, parts.query) if len(secret) > 1)
    with redacted_logs(secrets), requests.Session() as session:
        session.trust_env = parts.scheme == "https"  # a loopback address never goes through a proxy
        try:
            # Its body is of no interest, and is not waited for.
            with session.post(
                url, json={"text": escaped}, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True
            ) as response:
                status = response.status_code
        except (OSError, HTTPError, ValueError) as error:
            refused = f"The webhook could not be reached ({type(error).__name__})."
        else:
            refused = "" if 200 <= status < 300 else f"The webhook answered HTTP {status}."  # noqa: PLR2004 – success
    if refused:  # out of the `except` block: the cause would carry the address along
        raise AlertError(refused)
