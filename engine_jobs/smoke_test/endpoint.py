"""Where a probe's request goes: an origin to connect to and the host to ask it for."""

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine_jobs.smoke_test.attempts import ProbeFailed


@dataclass(frozen=True, kw_only=True)
class Origin:
    """`base` is what is connected to (scheme, host, port, a path); `host` is asked for (None: that of `base`)."""

    base: str
    host: str | None

    def where(self, path: str = "") -> str:
        return self.base + path + ("" if self.host is None else f" with the Host {self.host}")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A service's URL, those of its components, and the gateway in front of them (None: the URLs are asked themselves).

    `host` replaces the Host of a URL that is asked itself.
    """

    url: str
    host: str | None = None
    gateway: str | None = None
    component_urls: Mapping[str, str] = field(default_factory=dict)

    def origin(self, component: str | None) -> Origin:
        """Raises ProbeFailed where the service has no such component."""
        if component is None:
            url = self.url
        elif component in self.component_urls:
            url = self.component_urls[component]
        else:
            known = ", ".join(sorted(self.component_urls)) or "none"
            raise ProbeFailed(
                f"the InferenceService's status has no URL for the {component} (it has: {known}). "
                f"Does its spec have a {component}?"
            )
        if self.gateway is None:
            return Origin(base=url.rstrip("/"), host=self.host)
        parts = urllib.parse.urlsplit(url)
        return Origin(base=self.gateway.rstrip("/") + parts.path.rstrip("/"), host=parts.netloc)
