"""The domain of jinku: ledger, sequencer, procedures, mechanisms, portals. Knows messages, never grpc."""
