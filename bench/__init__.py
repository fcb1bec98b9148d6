"""What the claims say, measured: `python -m bench` writes bench/results.json."""
