"""What the steps of the learning loop work on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from crossfade.featurestore import FeatureStore
from crossfade.loop.audit import Audit
from crossfade.loop.openaudit import open_audit
from crossfade.loop.promote import Aliases
from crossfade.loop.router import HttpRouter, Router
from crossfade.openlog import open_log
from crossfade.registry import Registry
from crossfade.requestlog import RequestLog, utc_now
from crossfade.settings import Settings


@dataclass(frozen=True)
class Installation:
    """One installation's settings, registry and rows."""

    settings: Settings
    registry: Registry
    log: RequestLog
    store: FeatureStore
    for_use: bool = True
    """Draw Evidently's page at each check and plots of each model, and compile it; a replay makes dozens of them, which
    nobody would look at, and throws them away."""
    clock: Callable[[], str] = utc_now
    """Says what time it is, as the request log does."""
    router: Router | None = None
    """None: nobody splits traffic, so there is no ramp."""

    @classmethod
    def of(cls, settings: Settings) -> Installation:
        """Make what the settings name."""
        return cls(
            settings,
            Registry(settings.mlflow_tracking_uri, settings.reg_model_name),
            open_log(settings),
            FeatureStore(settings.feature_store),
            router=HttpRouter(settings),
        )

    @property
    def audit(self) -> Audit:
        """What was decided and moved."""
        return open_audit(self.settings, self.clock)

    @property
    def aliases(self) -> Aliases:
        """Names of the three aliases."""
        return Aliases(self.settings.prod_alias, self.settings.staging_alias, self.settings.previous_alias)
