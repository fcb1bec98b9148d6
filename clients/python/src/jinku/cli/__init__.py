"""The commands of `jinku`, one module per group."""
