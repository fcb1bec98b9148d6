"""The journal (a Merkle log), the state tables it makes, and the receipts that prove it."""
