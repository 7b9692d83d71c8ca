"""Networks: tensors → tensors, no probability. Each keeps its arguments as attributes, so that it can be saved."""

from torch.nn import Identity as Identity

from lowerbound.nn.bottom_up import BottomUp, ConvBottomUp, OfContext
from lowerbound.nn.dense import MLP, Chain, Constant, Table, Topics
from lowerbound.nn.images import ConvDecoder, ConvEncoder
from lowerbound.nn.inputs import Cells, Standardise
from lowerbound.nn.precision import Precision, apply, products
from lowerbound.nn.recurrent import (
    EachStep,
    GatedTransition,
    LinearTransition,
    Recurrent,
    StepReader,
    Summary,
    Unrolled,
    until_last,
    whole_steps,
)
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
    "EachStep",
    "GatedTransition",
    "Identity",
    "LinearTransition",
    "OfContext",
    "Precision",
    "Recurrent",
    "Standardise",
    "StepReader",
    "Summary",
    "Table",
    "Topics",
    "Unrolled",
    "apply",
    "products",
    "seeded",
    "until_last",
    "whole_steps",
]
