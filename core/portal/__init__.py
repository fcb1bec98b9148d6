"""Reads at vault doors: verified in batches, kept, answered before a box crosses and judged after it did."""
