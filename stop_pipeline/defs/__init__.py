"""Everything that knows Dagster: what it shows, when it runs, and how its ops call the steps of `sync`."""
