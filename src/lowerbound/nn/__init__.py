"""Networks: tensors → tensors, no probability. Each keeps its arguments as attributes, so that it can be saved."""

from torch.nn import Identity as Identity

from lowerbound.nn.bottom_up import BottomUp, ConvBottomUp, OfContext
from lowerbound.nn.dense import MLP, Chain, Constant, Table, Topics
from lowerbound.nn.images import ConvDecoder, ConvEncoder
from lowerbound.nn.inputs import Cells, Standardise
from lowerbound.nn.precision import Precision, apply, products
from lowerbound.process import seeded

__all__ = [
    "MLP",
    "BottomUp",
    "Cells",
    "Chain",
    "Constant",
    "ConvBottomUp",
    "ConvDecoder",
    "ConvEncoder",
    "Identity",
    "OfContext",
    "Precision",
    "Standardise",
    "Table",
    "Topics",
    "apply",
    "products",
    "seeded",
]
