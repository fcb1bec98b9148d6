"""Personal values: committed to in the journal, sealed beside it, erased with their keys."""
