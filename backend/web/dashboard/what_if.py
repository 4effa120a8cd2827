"""What would be accepted without a person, at which IoU and risk, by the audits that are labelled: an estimate.

`usam-backend pseudo-label` judges the pool's own proposals, missed objects included, and has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from usam.errors import PseudoLabelError
from usam.pseudo_labels.calibration import Candidates, RiskGuarantee, calibrate
from usam.pseudo_labels.guarantee import MOST_IMAGES

IOUS, RISKS = (0.7, 0.8, 0.9), (0.05, 0.1, 0.2)
LOWEST_IOU, HIGHEST_IOU, LOWEST_RISK, HIGHEST_RISK = 0.5, 0.95, 0.01, 0.3
CONFIDENCE, LOWEST_CONFIDENCE, HIGHEST_CONFIDENCE = 0.9, 0.5, 0.99


@dataclass(frozen=True)
class Outcome:
    """What audits say of one wish. `share` of the masks that would be accepted, 0..1, None where no promise can be
    given; `audits` that are missing then, None where no number of them would do."""

    iou: float
    risk: float
    share: float | None
    audits: int | None = None

    @property
    def short(self) -> str:
        """For a table."""
        if self.share is not None:
            return f"{self.share:.0%} of masks"
        return f"{self.audits:,} more audits" if self.audits else "not with these masks"

    @property
    def line(self) -> str:
        """In a sentence."""
        wish = f"IoU {self.iou:g} and more, with at most {self.risk:.0%} of the accepted masks below it"
        if self.share is not None:
            return f"{wish}: about {self.share:.0%} of the masks could be accepted now."
        if self.audits:
            return f"{wish}: about {self.audits:,} more audit tasks have to be labelled first."
        return f"{wish}: more audits alone would not do. Ask for a lower IoU or a higher risk, or train on more labels."


@dataclass(frozen=True)
class WhatIf:
    """The answer to what was asked, and those for a few other wishes, a row for each risk."""

    asked: Outcome
    table: tuple[tuple[float, tuple[Outcome, ...]], ...]


def wish_of(asked: Mapping[str, str]) -> tuple[float, float, float]:
    """The IoU, risk and confidence that an address asks for, within what can be asked; else those of every promise.

    >>> wish_of({"iou": "0.9", "risk": "x"}), wish_of({"iou": "7"})
    ((0.9, 0.1, 0.9), (0.95, 0.1, 0.9))
    """
    usual = RiskGuarantee()
    return (
        within(asked.get("iou", ""), usual.iou, LOWEST_IOU, HIGHEST_IOU),
        within(asked.get("risk", ""), usual.risk, LOWEST_RISK, HIGHEST_RISK),
        within(asked.get("confidence", ""), usual.confidence, LOWEST_CONFIDENCE, HIGHEST_CONFIDENCE),
    )


def within(text: str, otherwise: float, low: float, high: float) -> float:
    """A number between these; `otherwise` for what is none."""
    try:
        value = float(text[:12])
    except ValueError:
        return otherwise
    return round(min(max(value, low), high), 2) if value == value else otherwise


def outcome_of(audit: Candidates, iou: float, risk: float, confidence: float = CONFIDENCE) -> Outcome:
    """What the labelled audits `audit` say of one wish; they stand for the pool too, being drawn at random."""
    try:
        found = calibrate(audit, audit, RiskGuarantee(iou, risk, confidence))
    except PseudoLabelError as error:
        return Outcome(iou, risk, None, error.needed if 0 < error.needed < MOST_IMAGES else None)
    return Outcome(iou, risk, found.pool_share)


def table_of(audit: Candidates) -> tuple[tuple[float, tuple[Outcome, ...]], ...]:
    """Outcomes of a few usual wishes, a row for each risk."""
    return tuple((risk, tuple(outcome_of(audit, iou, risk) for iou in IOUS)) for risk in RISKS)
