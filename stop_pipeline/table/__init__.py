"""The data root: what the provider listed, merged into tables and kept in Parquet."""
