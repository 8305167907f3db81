"""How gradients flow through time: spectra, Jacobian products, Lyapunov exponents. Reads models, never changes them."""

from holdfast.flow.adjoints import Adjoints, adjoints
from holdfast.flow.growth import Growth, Profile, calendar_time, growth
from holdfast.flow.jacobians import jacobian_log_norms, saturation
from holdfast.flow.lyapunov import LyapunovExponents, lyapunov_exponents
from holdfast.flow.singular import jacobian_log_singular_values
from holdfast.flow.spectra import Spectrum, Threshold, TransientGrowth, spectra, spectrum, transient_growth
from holdfast.flow.surface import ErrorSurface, error_surface

__all__ = [
    "Adjoints",
    "ErrorSurface",
    "Growth",
    "LyapunovExponents",
    "Profile",
    "Spectrum",
    "Threshold",
    "TransientGrowth",
    "adjoints",
    "calendar_time",
    "error_surface",
    "growth",
    "jacobian_log_norms",
    "jacobian_log_singular_values",
    "lyapunov_exponents",
    "saturation",
    "spectra",
    "spectrum",
    "transient_growth",
]
