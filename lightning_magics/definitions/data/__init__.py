"""A cell or data becomes a LightningDataModule: samples, tables and texts."""
