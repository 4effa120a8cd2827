"""Readers of labelled image sets, one module each, one record type."""

from usam.research.datasets.catalogue import READERS, open_dataset
from usam.research.datasets.reader import Reader
from usam.research.datasets.record import Dataset, Instance, Problems, Record
from usam.research.datasets.splits import part_of, split_by_group

__all__ = [
    "READERS",
    "Dataset",
    "Instance",
    "Problems",
    "Reader",
    "Record",
    "open_dataset",
    "part_of",
    "split_by_group",
]
