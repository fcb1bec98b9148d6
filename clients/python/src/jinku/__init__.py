"""Client of the jinku (金库) verification service. Import what you need: this imports nothing."""

__version__ = "0.1.0"
