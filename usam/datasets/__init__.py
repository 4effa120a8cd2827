"""Readers of labelled image sets, one module each, one record type."""

from usam.datasets.record import Dataset, Instance, Problems, Record

__all__ = ["Dataset", "Instance", "Problems", "Record"]
