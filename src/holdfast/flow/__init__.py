"""How gradients flow through time: spectra, Jacobian products, Lyapunov exponents. Reads models, never changes them."""

from holdfast.flow.adjoints import Adjoints, adjoints
from holdfast.flow.growth import Growth, Profile, calendar_time, growth
from holdfast.flow.jacobians import jacobian_log_norms, saturation
from holdfast.flow.lyapunov import LyapunovExponents, lyapunov_exponents
from holdfast.flow.probe import FlowProbe, FlowSample
from holdfast.flow.spectra import Spectrum, Threshold, TransientGrowth, spectra, spectrum, transient_growth

__all__ = [
    "Adjoints",
    "FlowProbe",
    "FlowSample",
    "Growth",
    "LyapunovExponents",
    "Profile",
    "Spectrum",
    "Threshold",
    "TransientGrowth",
    "adjoints",
    "calendar_time",
    "growth",
    "jacobian_log_norms",
    "lyapunov_exponents",
    "saturation",
    "spectra",
    "spectrum",
    "transient_growth",
]
