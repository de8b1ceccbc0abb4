"""Turns a cell or a network into a LightningModule: its network, steps, losses, metrics and optimizer."""
