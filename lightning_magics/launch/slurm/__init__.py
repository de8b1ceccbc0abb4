"""Slurm: available resources, requests, job states, and the ranks on its nodes."""
