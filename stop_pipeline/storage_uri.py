"""Tells the two kinds of data root apart, a folder and a prefix in a bucket, and checks the URI of a bucket."""

from pathlib import Path
from urllib.parse import urlsplit

from stop_pipeline.errors import ConfigurationError

_FORMS = {
    "s3": "s3://bucket/prefix",
    "gs": "gs://bucket/prefix",
    "abfs": "abfs://container@account.dfs.core.windows.net/prefix",
}


def is_remote(root: str | Path) -> bool:
    """Return whether `root` is a URI rather than a folder."""
    return "://" in str(root)


def checked_uri(root: str) -> str:
    """Check the URI of a remote data root, and return it without a trailing slash.

    Raises:
        ConfigurationError: The URI is of an unsupported kind, or holds more than a bucket and a prefix. The message
            does not repeat the URI, because it may hold a credential.
    """
    try:
        parts = urlsplit(root)
    except ValueError:
        parts = urlsplit("")
    form = _FORMS.get(parts.scheme)
    if form is None:
        raise ConfigurationError(
            f"STOP_PIPELINE_DATA is a URI that cannot be a data root: use a folder, {', '.join(_FORMS.values())}."
        )
    if parts.query or parts.fragment or parts.password is not None or ("@" in parts.netloc) != ("@" in form):
        raise ConfigurationError(
            f"STOP_PIPELINE_DATA must have the form {form}: credentials and endpoint belong in the provider's own "
            "variables, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL."
        )
    path = parts.path.rstrip("/")
    if not parts.hostname or (path and "" in path[1:].split("/")):
        raise ConfigurationError(f"STOP_PIPELINE_DATA must have the form {form}, with a name between all slashes.")
    return root.rstrip("/")
