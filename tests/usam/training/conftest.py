"""Lets the tests of this folder import `synthetic_rows`, which makes tokens out of a known truth."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
