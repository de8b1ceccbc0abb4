"""Where it trains: in the kernel, in processes, on a cluster; starting, watching, stopping."""
