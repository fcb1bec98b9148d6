"""The mechanisms: what every event does to the state tables, for ever."""
