"""Turns a cell or a data object into a LightningDataModule: samples, tables and texts."""
