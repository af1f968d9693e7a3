"""All that is monitored: of every stack, and those of the additions."""

from __future__ import annotations

from stackwright.rendering.monitoring import alerts, board_of, metrics, panels
from stackwright.services import monitored_of

_OWN = monitored_of()
METRICS = (*metrics.METRICS, *(metric for own in _OWN.values() for metric in own.metrics))
ALERTS = (*alerts.ALERTS, *(alert for own in _OWN.values() for alert in own.alerts))
BOARDS = (*panels.DASHBOARDS, *(board_of(*each) for each in _OWN.items()))
