"""One file for each thing that a user can ask for: arguments are resolved, checked, and acted on; the session."""
