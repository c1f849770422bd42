"""Handwritten digits as tensors in memory: MNIST wherever it is available, the UCI digits everywhere else."""

from kd_course.data.load import SPLIT_SEED, Data, load_data
from kd_course.data.mnist import MNIST_SHA256, DataError, find_mnist
from kd_course.data.split import Batch, Split, to_float
from kd_course.data.streams import Augmented, Batches, Noise, Paired, as_mnist, jitter

__all__ = [
    "MNIST_SHA256",
    "SPLIT_SEED",
    "Augmented",
    "Batch",
    "Batches",
    "Data",
    "DataError",
    "Noise",
    "Paired",
    "Split",
    "as_mnist",
    "find_mnist",
    "jitter",
    "load_data",
    "to_float",
]
