"""A receiver of webhooks that shows what it is told: `python3 receiver.py [PORT]`, 8090 unless given. It takes everything."""

import http.server
import json
import sys


def say(text):
    print(text, flush=True)


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes alerts, shows and counts them."""

    taken = 0

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(204)
        self.end_headers()
        Receiver.taken += 1
        try:
            alert = json.loads(body)
        except ValueError:
            alert = body.decode(errors="replace")
        say(f"webhook   {self.headers.get('webhook-id', '')}: {json.dumps(alert)[:300]}")

    def do_GET(self):
        """Whether it listens."""
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_arguments):
        """Alerts are shown, requests are not."""


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8090
    http.server.ThreadingHTTPServer(("", port), Receiver).serve_forever()
