"""The run folder: paths, record, events, logs, catalogue."""
