"""The run folder: paths, record, events, catalogue."""
