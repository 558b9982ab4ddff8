"""A campaign checked against the suppression list: which rows may be texted, and which must not be."""

from stop_pipeline.campaign.suppression import DEFAULT_MAX_AGE, Suppressed, SuppressedFile, suppress, suppress_file

__all__ = ["DEFAULT_MAX_AGE", "Suppressed", "SuppressedFile", "suppress", "suppress_file"]
