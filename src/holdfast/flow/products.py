"""Products of many Jacobians that neither overflow nor underflow: rows of moderate numbers, and the log of their size.

B windows, M rows, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Product:
    """P = diag(exp(log)) mantissa: the largest entry of each row of the mantissa is 1, or the row 0 and its log -inf.

    One scale for the whole product is not enough: a row that is 1e-400 of another counts again as soon as a later
    factor puts out the large one.

    Attributes:
        mantissa_BMK: [B, M, K], float64.
        log_BM: Natural log of the size of each row [B, M].
    """

    mantissa_BMK: Tensor
    log_BM: Tensor

    @classmethod
    def identity(cls, B: int, M: int, K: int, device: torch.device) -> Product:
        """The first K columns of the identity [M, M], B times."""
        eye_MK = torch.eye(M, K, dtype=torch.float64, device=device)
        log_M = eye_MK.sum(1).log()  # a row of zeros has size 0
        return cls(eye_MK.expand(B, M, K), log_M.expand(B, M))

    def after(self, J_BMM: Tensor) -> Product:
        """J P."""
        scale_BM = J_BMM.abs().amax(2)
        J_BMM = J_BMM / scale_BM.masked_fill(scale_BM == 0, 1)[:, :, None]
        reach_BMM = self.log_BM[:, None].masked_fill(J_BMM == 0, -torch.inf)
        top_BM = reach_BMM.amax(2)
        share_BMM = (reach_BMM - top_BM.masked_fill(top_BM == -torch.inf, 0)[:, :, None]).exp()
        rows_BMK = (J_BMM * share_BMM) @ self.mantissa_BMK
        size_BM = rows_BMK.abs().amax(2)
        mantissa_BMK = rows_BMK / size_BM.masked_fill(size_BM == 0, 1)[:, :, None]
        return Product(mantissa_BMK, size_BM.log() + scale_BM.log() + top_BM)

    def log_norm(self, rows: int) -> Tensor:
        """Natural log of the largest singular value of the first rows [B], -inf where they are 0."""
        log_BR = self.log_BM[:, :rows]
        top_B = log_BR.amax(1)
        share_BR = (log_BR - top_B.masked_fill(top_B == -torch.inf, 0)[:, None]).exp()
        S_BRK = share_BR[:, :, None] * self.mantissa_BMK[:, :rows]
        # The largest eigenvalue of the Gram matrix is exact to rounding, and much cheaper than singular values.
        largest_B: Tensor = torch.linalg.eigvalsh(S_BRK.mT @ S_BRK)[:, -1]
        return largest_B.clamp(min=1).log() / 2 + top_B
