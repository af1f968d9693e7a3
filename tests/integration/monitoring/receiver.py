"""An OTLP receiver: writes each span that is sent to it as a line of JSON. Runs where opentelemetry-proto is.

python receiver.py PORT FILE
"""

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Receiver(BaseHTTPRequestHandler):
    """Takes traces in protobuf, as OTLP over HTTP has them."""

    def do_POST(self) -> None:
        """Write what is sent, and answer that it was taken."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        asked = ExportTraceServiceRequest.FromString(body)
        with Path(sys.argv[2]).open("a", encoding="utf-8") as file:
            for resource in asked.resource_spans:
                (service,) = (a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    row = {
                        "path": self.path,
                        "service": service,
                        "name": span.name,
                        "trace": span.trace_id.hex(),
                        "span": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "attributes": sorted(attribute.key for attribute in span.attributes),
                    }
                    print(json.dumps(row), file=file)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()
        self.wfile.write(ExportTraceServiceResponse().SerializeToString())


HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
