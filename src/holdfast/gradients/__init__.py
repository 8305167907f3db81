"""Roles of parameters, norms of gradients, clip rules, and the guard that measures, clips and updates."""

from holdfast.gradients.adjoint import AdjointResult, AdjointSummary, ClipAdjoint
from holdfast.gradients.attach import Attachment
from holdfast.gradients.blocks import ClipAGC, ClipBlockRMS
from holdfast.gradients.clauses import Clause, Rule
from holdfast.gradients.frameworks import lightning_callback, trainer_callback
from holdfast.gradients.guard import GradientGuard
from holdfast.gradients.history import ClipAuto, ClipMedian, ClipPercentile, ClipZScore
from holdfast.gradients.norms import combine_norms, grad_norms, tensor_norms
from holdfast.gradients.parse import ClipPlan, parse_clip, parse_rule
from holdfast.gradients.result import ClipResult, Measured
from holdfast.gradients.roles import ROLES, Role, find_roles
from holdfast.gradients.rules import ClipNorm, ClipValue, clip_coef
from holdfast.gradients.summary import GuardSummary, NormHistogram, RoleSummary

__all__ = [
    "ROLES",
    "AdjointResult",
    "AdjointSummary",
    "Attachment",
    "Clause",
    "ClipAGC",
    "ClipAdjoint",
    "ClipAuto",
    "ClipBlockRMS",
    "ClipMedian",
    "ClipNorm",
    "ClipPercentile",
    "ClipPlan",
    "ClipResult",
    "ClipValue",
    "ClipZScore",
    "GradientGuard",
    "GuardSummary",
    "Measured",
    "NormHistogram",
    "Role",
    "RoleSummary",
    "Rule",
    "clip_coef",
    "combine_norms",
    "find_roles",
    "grad_norms",
    "lightning_callback",
    "parse_clip",
    "parse_rule",
    "tensor_norms",
    "trainer_callback",
]
