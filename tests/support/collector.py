"""A collector of spans: what OTLP over HTTP needs of one, on a loopback port."""

import http.server
import threading
import time
from collections.abc import Callable
from typing import Self

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

_PATIENCE_S = 120.0


class Collector:
    """Keeps every span that it is sent."""

    def __init__(self) -> None:
        spans = self.spans = list[trace_pb2.Span]()
        services = self.services = set[str]()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = trace_service_pb2.ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
                for resource in request.resource_spans:
                    services.update(
                        one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
                    )
                    spans.extend(span for scope in resource.scope_spans for span in scope.spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def environ(self) -> dict[str, str]:
        """What a program needs to be told of it, as OpenTelemetry names it."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def wait(self, wanted: Callable[[trace_pb2.Span], bool], number: int = 1) -> list[trace_pb2.Span]:
        """The spans that are `wanted`, once so many have come."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            found = [span for span in list(self.spans) if wanted(span)]
            if len(found) >= number:
                return found
            assert time.monotonic() < end, [span.name for span in self.spans]
            time.sleep(0.05)


def told(span: trace_pb2.Span) -> dict[str, str | int]:
    """A span's attributes."""
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}
