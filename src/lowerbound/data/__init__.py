"""Data: rows in memory, files, frames and named datasets. Rows and columns are counted from 0."""

from lowerbound.data.counts import Counts
from lowerbound.data.dialect import Csv
from lowerbound.data.documents import Documents, read_documents, read_words
from lowerbound.data.files import Table, read
from lowerbound.data.formulas import safe_csv
from lowerbound.data.frames import from_frame
from lowerbound.data.named import Dataset, digits, load, mnist
from lowerbound.data.rows import Rows
from lowerbound.data.sequences import Sequences
from lowerbound.data.sources import source
from lowerbound.data.table_files import read_frame, write_frame
from lowerbound.data.writing import write

__all__ = [
    "Counts",
    "Csv",
    "Dataset",
    "Documents",
    "Rows",
    "Sequences",
    "Table",
    "digits",
    "from_frame",
    "load",
    "mnist",
    "read",
    "read_documents",
    "read_frame",
    "read_words",
    "safe_csv",
    "source",
    "write",
    "write_frame",
]
