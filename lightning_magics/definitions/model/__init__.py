"""A cell or a network becomes a LightningModule: its network, steps, losses, metrics and optimizer."""
