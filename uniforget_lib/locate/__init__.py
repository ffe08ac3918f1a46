"""Locators: ``locate.<name>(adapter, ...) -> Score``, high = implicated. A new one is a file and a line here."""

from .baselines import magnitude, random
from .uniforget import UniForget, calibrate, relative_change, uniforget

LOCATORS = {"uniforget": uniforget, "random": random, "magnitude": magnitude}
