"""What is seen: live, at the end, in a terminal, in tables, TensorBoard."""
