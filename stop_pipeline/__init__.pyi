from stop_pipeline.campaign.suppression import suppress as suppress
from stop_pipeline.table.lookup import lookup as lookup
from stop_pipeline.table.lookup import read_changes as read_changes
from stop_pipeline.table.reading import read_rejected as read_rejected
from stop_pipeline.table.reading import read_stops as read_stops
from stop_pipeline.table.reading import read_stops_per_day as read_stops_per_day
from stop_pipeline.table.reading import read_suppression_list as read_suppression_list
