"""What a trained pair gives: draws, moments and audits, written to files."""
