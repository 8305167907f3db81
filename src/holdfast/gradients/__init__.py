"""Roles of parameters, norms of gradients, clip rules, and the guard that measures, clips and updates."""

from holdfast.gradients.guard import ClipResult, GradientGuard
from holdfast.gradients.norms import Measured, combine_norms, grad_norms
from holdfast.gradients.roles import ROLES, Role, find_roles
from holdfast.gradients.rules import ClipNorm, ClipValue, parse_rule
from holdfast.gradients.summary import GuardSummary, NormHistogram, RoleSummary

__all__ = [
    "ROLES",
    "ClipNorm",
    "ClipResult",
    "ClipValue",
    "GradientGuard",
    "GuardSummary",
    "Measured",
    "NormHistogram",
    "Role",
    "RoleSummary",
    "combine_norms",
    "find_roles",
    "grad_norms",
    "parse_rule",
]
