"""The border: posterior and audit files, their schemas, how they are written and validated. Imports neither torch nor pyro."""
