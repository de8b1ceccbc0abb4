"""What the user sees: live view, final report, terminal output, tables, TensorBoard."""
