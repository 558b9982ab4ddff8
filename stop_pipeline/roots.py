"""What a text must be to name a data root: a folder, or a prefix in a bucket.

What belongs here: telling the two apart, and the sentence that refuses any other. What does not: reaching them
(`files`, `objects`); nothing heavy is loaded, for the settings ask here first.
"""

from pathlib import Path
from urllib.parse import urlsplit

from stop_pipeline.errors import ConfigurationError

_FORMS = {
    "s3": "s3://bucket/prefix",
    "gs": "gs://bucket/prefix",
    "abfs": "abfs://container@account.dfs.core.windows.net/prefix",
}


def is_remote(root: str | Path) -> bool:
    """Whether `root` is a URI, and no folder."""
    return "://" in str(root)


def checked_uri(root: str) -> str:
    """The URI of a remote data root, without a slash at its end.

    Raises:
        ConfigurationError: it is none that this package reaches, or holds more than bucket and prefix. The message
            repeats none of it, since it may hold a credential.
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
            f"STOP_PIPELINE_DATA must be of the form {form}: credentials and endpoint come from the provider's own "
            "variables, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL."
        )
    path = parts.path.rstrip("/")
    if not parts.hostname or (path and "" in path[1:].split("/")):
        raise ConfigurationError(f"STOP_PIPELINE_DATA must be of the form {form}, with a name between all slashes.")
    return root.rstrip("/")
