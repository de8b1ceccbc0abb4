"""Turns a cell into a class."""
