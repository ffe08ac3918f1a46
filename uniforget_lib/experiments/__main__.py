"""Run experiments and store their rows; a row takes from seconds to minutes, and stored ones are not computed again."""

import argparse
from pathlib import Path

from ..testbed import FAMILIES
from . import EXPERIMENTS, RESULTS, Lab, forget, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m uniforget_lib.experiments", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"all (hours), or some of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--family", nargs="+", default=FAMILIES, choices=FAMILIES, help="default: every family")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the rows (default: the package, tracked)")
    parser.add_argument("--again", action="store_true", help="compute the rows of these families again, stored or not")
    arguments = parser.parse_args()
    names = list(EXPERIMENTS) if arguments.names == ["all"] else arguments.names
    if unknown := set(names) - set(EXPERIMENTS):
        parser.error(f"unknown {', '.join(sorted(unknown))}: use some of {', '.join(EXPERIMENTS)}")
    for family in arguments.family:
        lab = Lab.load(family, scores=arguments.out / "scores")
        for name in names:
            if arguments.again:
                forget(name, family, arguments.out)
            found = run(name, lab, arguments.out)
            print(f"{family} {name}: {sum(row['family'] == family for row in found.rows)} rows", flush=True)


if __name__ == "__main__":
    main()
