"""The builds of the fixture server as a running platform hosts them."""

from support import everything
from support.clients import Endpoint
from support.everything import Build
from support.platform import Platform


class Builds:
    """The builds of the fixture as one tenant hosts them, each deployed when it is first asked for."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._found: dict[Build, Endpoint] = {}
        platform.create_tenant("builds")
        self._admin = platform.create_key("builds", "admin")
        self._caller = platform.create_key("builds", "mcp_user")

    def __getitem__(self, build: Build) -> Endpoint:
        """Where `build` is, and a key that may only call it."""
        if build not in self._found:
            source, manifest = f"pypi:{everything.NAME}", everything.manifest(build)
            url = self._platform.deploy("builds", source, build, self._admin, manifest)
            self._found[build] = Endpoint(url, self._caller)
        return self._found[build]

    def rest(self) -> None:
        """End what sessions have left running: clients that never end theirs are the rule."""
        for build in self._found:
            for action in ("stop", "start"):
                self._platform.api("POST", f"/tenants/builds/servers/{build}/{action}", key=self._admin)
