from stop_pipeline.campaign.suppression import suppress
from stop_pipeline.table.lookup import lookup, read_changes
from stop_pipeline.table.reading import read_rejected, read_stops, read_stops_per_day, read_suppression_list

__all__ = [
    "lookup",
    "read_changes",
    "read_rejected",
    "read_stops",
    "read_stops_per_day",
    "read_suppression_list",
    "suppress",
]
