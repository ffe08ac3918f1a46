"""Run experiments and store their rows in the package."""

import argparse

from ..testbed import FAMILIES
from . import EXPERIMENTS, Lab, forget, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m uniforget_lib.experiments", description=__doc__)
    parser.add_argument(
        "names", nargs="*", default=list(EXPERIMENTS), metavar="NAME", help=f"of {', '.join(EXPERIMENTS)}"
    )
    parser.add_argument("--family", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--again", action="store_true", help="compute the rows of these families again, stored or not")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(EXPERIMENTS):
        parser.error(f"unknown {sorted(unknown)}: use some of {', '.join(EXPERIMENTS)}")
    for family in arguments.family:
        lab = Lab.load(family)
        for name in arguments.names:
            if arguments.again:
                forget(name, family)
            found = run(name, lab)
            print(f"{family} {name}: {sum(row['family'] == family for row in found.rows)} rows", flush=True)


if __name__ == "__main__":
    main()
