"""Schemas: the kind of each column of a table, and the conversion of its cells to numbers and back."""

from lowerbound.schema.column import KINDS, Column, Kind, Storage
from lowerbound.schema.infer import infer, infer_and_encode
from lowerbound.schema.table import Encoded, Schema

__all__ = ["KINDS", "Column", "Encoded", "Kind", "Schema", "Storage", "infer", "infer_and_encode"]
