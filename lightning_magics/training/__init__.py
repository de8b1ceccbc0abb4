"""Inside the process that trains: the Trainer, what it reports, checkpoints, loggers."""
