"""``python -m pyro_hvae``: the command line."""

import sys

from pyro_hvae.cli import main

sys.exit(main())
