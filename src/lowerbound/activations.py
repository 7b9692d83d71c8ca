"""Activation functions of hidden layers that are known by name: PyTorch's."""

from torch.nn import GELU, ReLU, SiLU, Softplus, Tanh

__all__ = ["GELU", "ReLU", "SiLU", "Softplus", "Tanh"]
