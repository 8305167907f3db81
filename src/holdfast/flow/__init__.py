"""How gradients flow through time: spectra, Jacobian products, Lyapunov exponents. Reads models, never changes them."""

from holdfast.flow.adjoints import Adjoints, adjoints
from holdfast.flow.findings import Finding
from holdfast.flow.growth import Growth, Profile, calendar_time, growth
from holdfast.flow.jacobians import jacobian_log_norms, saturation
from holdfast.flow.lyapunov import LyapunovExponents, lyapunov_exponents
from holdfast.flow.remedies import Advice
from holdfast.flow.spectra import Spectrum, Threshold, TransientGrowth, spectra, spectrum, transient_growth
from holdfast.flow.verdict import Diagnosis, diagnose

__all__ = [
    "Adjoints",
    "Advice",
    "Diagnosis",
    "Finding",
    "Growth",
    "LyapunovExponents",
    "Profile",
    "Spectrum",
    "Threshold",
    "TransientGrowth",
    "adjoints",
    "calendar_time",
    "diagnose",
    "growth",
    "jacobian_log_norms",
    "lyapunov_exponents",
    "saturation",
    "spectra",
    "spectrum",
    "transient_growth",
]
