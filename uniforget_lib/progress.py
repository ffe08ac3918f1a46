"""One progress bar: a widget in Jupyter and Colab, text in a terminal and in the published book."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable


def progress(steps: Iterable, **options):
    """``steps`` behind a tqdm bar. The book is static: while it is built (``UNIFORGET_BOOK_BUILD``) the bar is text."""
    if os.environ.get("UNIFORGET_BOOK_BUILD"):
        from tqdm import tqdm
    else:
        with warnings.catch_warnings():  # tqdm says so when a notebook has no ipywidgets, and falls back to text
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm
    return tqdm(steps, **options)
