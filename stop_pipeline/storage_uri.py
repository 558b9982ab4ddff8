"""Tells the two kinds of data root apart, a folder and a prefix in a bucket, and checks the URI of a bucket."""

import re
from pathlib import Path

from stop_pipeline.errors import ConfigurationError

_NAME = r"[\w.-]+"
_BUCKET_URI = re.compile(rf"((s3|gs)://{_NAME}|abfs://{_NAME}@{_NAME})(/[^/?#]+)*/*")


def is_remote(root: str | Path) -> bool:
    """Return whether `root` is a URI rather than a folder."""
    return "://" in str(root)


def checked_uri(root: str) -> str:
    """Check the URI of a remote data root, and return it without a trailing slash.

    Raises:
        ConfigurationError: The URI is of an unsupported kind, or holds more than a bucket and a prefix. The message
            does not repeat the URI, because it may hold a credential.
    """
    if not _BUCKET_URI.fullmatch(root):
        raise ConfigurationError(
            "STOP_PIPELINE_DATA is a URI that cannot be a data root: use a folder, s3://bucket/prefix, "
            "gs://bucket/prefix or abfs://container@account.dfs.core.windows.net/prefix. Credentials and endpoint go "
            "into the provider's own variables, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL."
        )
    return root.rstrip("/")
