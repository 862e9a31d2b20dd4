"""How much of a guide's posterior and of its noise correlations is real, from audit files (`pyro-hvae audit RUN`)."""

import argparse
import sys
from pathlib import Path

from pyro_hvae.errors import HVAEError
from pyro_hvae.report.audit_report import audit_report
from pyro_hvae.report.report import file_labels
from pyro_hvae.storage.audit_file import open_audit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", metavar="FILE", nargs="+", help="audit file (.nc)")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("figures"), help="where figures go (%(default)s)"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for path, label in zip(options.files, file_labels(options.files), strict=True):
        with open_audit(path) as tree:
            print(f"{path}\n{audit_report(tree, options.out / f'guide_audit-{label}.png')}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HVAEError as error:
        sys.exit(str(error))
