"""`pulumi-language-python [ENGINE ADDRESS]`: what the engine starts."""

import sys

from localcluster.plugin_server import engine_address, serve
from localcluster.pulumi_protocol import load_protocol_only


def main() -> None:
    """Serves the language host until the engine is gone."""
    load_protocol_only()
    from localcluster.pulumi_language_python.host import LanguageHost, register

    host = LanguageHost(engine_address(sys.argv[1:]))
    serve(lambda server: register(host, server), host.stop)


if __name__ == "__main__":
    main()
