"""What Dagster loads: the assets of the pipeline, and what surrounds them."""

GROUP = "stop_list"
"""The group of all assets, which the job selects."""
