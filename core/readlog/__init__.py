"""The read log: every batch that was acknowledged, sealed, in an LMDB environment of its own."""
