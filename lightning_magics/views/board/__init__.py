"""TensorBoard: its servers, and where a board is shown."""
