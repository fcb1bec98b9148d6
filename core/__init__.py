"""The domain of jinku.

Ledger, sequencer, procedures, mechanisms, portals. Knows messages, never grpc.
"""
