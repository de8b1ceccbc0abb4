"""What crosses between processes: payload, exceptions, stop requests."""
