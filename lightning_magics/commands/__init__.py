"""The Python API behind the magics: resolves and checks what the user names, and acts on it; and the session."""
