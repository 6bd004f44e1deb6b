"""Where Triton listens in a predictor's pod: the description names these ports, and what starts Triton is told them."""

from typing import Final

HTTP_PORT: Final = 8080
GRPC_PORT: Final = 9000
METRICS_PORT: Final = 8002
