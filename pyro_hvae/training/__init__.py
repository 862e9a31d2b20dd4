"""How a pair is trained."""
