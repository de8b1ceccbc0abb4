"""What a fit was made of, and making it again: history, closure, recipe, script, agreement."""
