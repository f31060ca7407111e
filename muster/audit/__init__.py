"""Audit: replay a whole run with no trust in anybody, and name every object that is not what it must be."""

from __future__ import annotations

from muster.audit.auditor import Auditor, audit_run
from muster.audit.losses import Sampling
from muster.audit.report import AuditReport, Fault, FaultClass, Note

__all__ = ["AuditReport", "Auditor", "Fault", "FaultClass", "Note", "Sampling", "audit_run"]
