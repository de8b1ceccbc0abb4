"""What Slurm has and is asked for, how its jobs stand, and ranks on its nodes."""
