"""What is asked of a trained pair: draws, moments, audits, written to files."""
