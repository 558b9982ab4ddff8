"""Posts a message to a webhook that takes Slack's JSON. The webhook's address is a secret: no message or log has it."""

from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from stop_pipeline.errors import AlertError
from stop_pipeline.redaction import redacted_logs

TIMEOUT_SECONDS = (5, 15)
"""To connect, and for the response. Together less than the minute that Dagster gives a sensor."""


def post(url: str, text: str) -> None:
    """Post `text` as `{"text": …}`, which Slack, Mattermost, Rocket.Chat and others show.

    Raises:
        AlertError: the webhook could not be reached, or did not respond with a status of success.
    """
    parts = urlsplit(url)
    # These three characters are Slack's markup.
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    secrets = tuple(secret for secret in (url, parts.path, parts.query) if len(secret) > 1)
    with redacted_logs(secrets), requests.Session() as session:
        session.trust_env = parts.scheme == "https"  # a loopback address never goes through a proxy
        try:
            # The body of the response does not matter, so it is not waited for.
            with session.post(
                url, json={"text": escaped}, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True
            ) as response:
                status = response.status_code
        except (OSError, HTTPError, ValueError) as error:
            refused = f"The webhook could not be reached ({type(error).__name__})."
        else:
            refused = "" if 200 <= status < 300 else f"The webhook responded with HTTP {status}."  # noqa: PLR2004
    if refused:  # out of the `except` block, or the cause would carry the address along
        raise AlertError(refused)
