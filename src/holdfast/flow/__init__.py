"""How gradients flow through time: measures of it, and penalties on it. Reads models, never changes them."""

from holdfast.flow.adjoints import Adjoints, adjoints
from holdfast.flow.findings import Finding
from holdfast.flow.growth import Growth, Profile, calendar_time, growth
from holdfast.flow.jacobians import jacobian_log_norms, saturation
from holdfast.flow.lyapunov import LyapunovExponents, lyapunov_exponents
from holdfast.flow.penalties import flossing, layer_inputs, omega
from holdfast.flow.probe import FlowProbe, FlowSample
from holdfast.flow.remedies import Advice
from holdfast.flow.singular import jacobian_log_singular_values
from holdfast.flow.spectra import GAINS, Spectrum, Threshold, TransientGrowth, spectra, spectrum, transient_growth
from holdfast.flow.surface import ErrorSurface, error_surface
from holdfast.flow.verdict import Diagnosis, diagnose

__all__ = [
    "GAINS",
    "Adjoints",
    "Advice",
    "Diagnosis",
    "ErrorSurface",
    "Finding",
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
    "diagnose",
    "error_surface",
    "flossing",
    "growth",
    "jacobian_log_norms",
    "jacobian_log_singular_values",
    "layer_inputs",
    "lyapunov_exponents",
    "omega",
    "saturation",
    "spectra",
    "spectrum",
    "transient_growth",
]
