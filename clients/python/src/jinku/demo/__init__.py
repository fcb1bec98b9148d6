"""The demonstration bank: recorded reads, real service, injected attacks. `jinku demo` runs it."""
