"""What a line says: declared once, parsed, documented, completed."""
