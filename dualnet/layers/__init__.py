"""Layers: an op together with the parameters it uses, and the containers that make networks of them."""

from .activation import ELU, GELU, LeakyReLU, LogSoftmax, Mish, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from .containers import Identity, Lambda, Parallel, Residual, Sequential
from .convolution import Conv2D, Conv2DTranspose, DepthwiseConv2D, SeparableConv2D
from .dense import Dense, Flatten
from .dropout import Dropout, SpatialDropout2D
from .graph import Graph
from .layer import Layer
from .merging import Add, Average, Concatenate, Maximum, Multiply
from .normalization import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from .piecewise import Hardsigmoid, Hardswish, PReLU, ReLU6
from .pooling import (
    AdaptiveAveragePool2D,
    AveragePool2D,
    GlobalAveragePool2D,
    GlobalMaxPool2D,
    L2Pool2D,
    MaxPool2D,
)
from .resizing import Cropping2D, ReflectionPadding2D, Reshape, UpSampling2D, ZeroPadding2D
from .sequences import AveragePool1D, Conv1D, GlobalAveragePool1D, GlobalMaxPool1D, MaxPool1D

__all__ = [
    "AdaptiveAveragePool2D",
    "Add",
    "Average",
    "AveragePool1D",
    "AveragePool2D",
    "BatchNorm",
    "Concatenate",
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "Cropping2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "ELU",
    "Flatten",
    "GELU",
    "GlobalAveragePool1D",
    "GlobalAveragePool2D",
    "GlobalMaxPool1D",
    "GlobalMaxPool2D",
    "Graph",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "InstanceNorm",
    "L2Pool2D",
    "Lambda",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "LogSoftmax",
    "MaxPool1D",
    "MaxPool2D",
    "Maximum",
    "Mish",
    "Multiply",
    "PReLU",
    "Parallel",
    "RMSNorm",
    "ReLU",
    "ReLU6",
    "ReflectionPadding2D",
    "Reshape",
    "Residual",
    "SeparableConv2D",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "SpatialDropout2D",
    "Tanh",
    "UpSampling2D",
    "ZeroPadding2D",
]
