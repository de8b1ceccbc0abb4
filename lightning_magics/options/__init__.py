"""The options of a magic: declared once, then parsed, documented and completed."""
