"""The only border from numpy to torch: which windows, and the windows themselves."""

from holdfast.windows.batch import Batch
from holdfast.windows.gather import Windows
from holdfast.windows.sampler import Sampler, affordable

__all__ = ["Batch", "Sampler", "Windows", "affordable"]
