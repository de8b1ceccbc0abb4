"""What runs in the training process: the Trainer, what it reports, checkpoints, loggers."""
