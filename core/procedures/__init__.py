"""The procedures: how commands are decided, how their entries and queries are answered."""
