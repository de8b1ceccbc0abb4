"""What crosses between processes: payload, exceptions, everything about stopping."""
