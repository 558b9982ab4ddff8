"""A campaign checked against the suppression list: which rows may be texted, and which must not be."""
