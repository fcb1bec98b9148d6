"""Evidence packages: what the journal holds about one thing, for people who do not trust us.

Layout in docs/formats.md. `collect` reads a running service; everything else needs the package, the
realm's verifier key and nothing more.
"""
