"""Starts, watches and stops runs: in the kernel, in separate processes, or on a cluster."""
