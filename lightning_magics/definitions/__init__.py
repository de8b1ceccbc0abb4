"""A cell becomes a class."""
