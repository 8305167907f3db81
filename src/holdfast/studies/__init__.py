"""Controlled experiments that measure what people say about clipping and the flow of gradients."""

from holdfast.studies.catalogue import STUDIES, Study, find_study
from holdfast.studies.grid import Trial, grid
from holdfast.studies.run import StudyResult, run_study
from holdfast.studies.verdicts import Verdict, judge

__all__ = ["STUDIES", "Study", "StudyResult", "Trial", "Verdict", "find_study", "grid", "judge", "run_study"]
