"""Layers: an op together with the parameters it uses, and the containers that make networks of them."""

from .activation import ELU, GELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from .containers import Identity, Lambda, Parallel, Residual, Sequential
from .convolution import Conv2D, Conv2DTranspose, DepthwiseConv2D, SeparableConv2D
from .dense import Dense, Flatten
from .dropout import Dropout, SpatialDropout2D
from .layer import Layer
from .normalization import BatchNorm, GroupNorm, LayerNorm
from .pooling import AveragePool2D, GlobalAveragePool2D, GlobalMaxPool2D, L2Pool2D, MaxPool2D

__all__ = [
    "AveragePool2D",
    "BatchNorm",
    "Conv2D",
    "Conv2DTranspose",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "ELU",
    "Flatten",
    "GELU",
    "GlobalAveragePool2D",
    "GlobalMaxPool2D",
    "GroupNorm",
    "Identity",
    "L2Pool2D",
    "Lambda",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "LogSoftmax",
    "MaxPool2D",
    "Parallel",
    "ReLU",
    "Residual",
    "SeparableConv2D",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "SpatialDropout2D",
    "Tanh",
]
