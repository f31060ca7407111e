"""Audit: replay a whole run with no trust in anybody, and name every object that is not what it must be."""

from __future__ import annotations

from muster.audit.auditor import Auditor, audit_run
from muster.audit.report import AuditReport, Fault, FaultClass

__all__ = ["AuditReport", "Auditor", "Fault", "FaultClass", "audit_run"]
