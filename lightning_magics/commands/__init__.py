"""The Python API behind the magics, and the session: resolves and checks the arguments, then acts on them."""
