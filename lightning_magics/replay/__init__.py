"""What a fit was built from, and how to repeat it: history, closure, recipe, script, agreement."""
