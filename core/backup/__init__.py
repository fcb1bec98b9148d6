"""Copies of a realm's data: taken while the service writes, put back, and made smaller in place."""
