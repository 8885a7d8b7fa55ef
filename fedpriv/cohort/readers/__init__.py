"""Data of one's own, read into people: tables, arrays, torch data sets, saved data sets, LEAF's JSON, images.

::

    a file or a frame -> Table -> features, labels -> People -> Tasks
                         LEAF, images, arrays ------^

=================  ===========================================================================
``asked``          what all of them are told: declared, classes, split, seed
``people``         ``divide``: one spelling for each name, one order, train, validation, test
``column``         columns of any library as arrays of a few kinds, and as numbers
``text_table``     CSV and its like; every cell is text until it is asked for
``frame``          pandas, pyarrow, Parquet, what ``save_to_disk`` wrote
``paths``          what is at a path, and whether it may be read
``files``          ``open_table``: by the ending of a file
``features``       how columns become inputs, as the user says it
``encode``         columns as numbers, and what of them cannot be used
``table``          ``people_of``: from a table to people
``arrays``         arrays and torch data sets in memory
``leaf``           LEAF's JSON
``images``         a folder of images, person/class/image
``back``           ``as_frame``: tasks as a table again
=================  ===========================================================================

Nothing is fitted to the values of protected data: what a column holds, its range and its categories, and which classes
there are is told by the user. Their structure (headings, rows, names, types, sizes) may refuse a start, with row and
column; their values never do, and stand in no message. A value that cannot be used becomes a NaN, or the label -1, and
its task counts as zero (:mod:`fedpriv.cohort.usable`).

pandas, pyarrow and Pillow, which come with flwr-datasets, read what they can: they are fast and kept well. Text tables
are split by Python's ``csv``: it knows the line of each record, and takes no type from cells.
"""

from __future__ import annotations

from fedpriv.cohort.readers.asked import Asked, Found
from fedpriv.cohort.readers.column import Placed, Table
from fedpriv.cohort.readers.files import open_table
from fedpriv.cohort.readers.frame import is_saved_dataset, table_of, table_of_saved
from fedpriv.cohort.readers.people import People
from fedpriv.cohort.readers.table import inputs_of, people_of

__all__ = [
    "Asked",
    "Found",
    "People",
    "Placed",
    "Table",
    "inputs_of",
    "is_saved_dataset",
    "open_table",
    "people_of",
    "table_of",
    "table_of_saved",
]
