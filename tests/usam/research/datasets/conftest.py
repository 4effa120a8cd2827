"""Lets the tests of this folder import `dataset_layouts`, which writes small data sets."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
