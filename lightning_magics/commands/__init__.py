"""One file for each user command, which resolves and checks its arguments and acts on them; and the session."""
