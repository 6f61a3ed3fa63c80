"""A handler in Python: accepts only signed deliveries, and does the work of a job once."""
import base64, hashlib, hmac, json, os, re, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = base64.b64decode(os.environ["POSTHORN_SECRET"].removeprefix("whsec_"), validate=True)
MAX_BODY_BYTES = 1_048_576
# In memory, for the example. Store yours in the database of the work, in the same transaction.
done, lock = {}, threading.Lock()


def is_genuine(headers, body):
    job_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if "." in job_id or not re.fullmatch("[0-9]{1,12}", timestamp): return False
    if abs(time.time() - int(timestamp)) > 300: return False
    mac = hmac.digest(KEY, f"{job_id}.{timestamp}.".encode() + body, hashlib.sha256)
    expected = b"v1," + base64.b64encode(mac)
    signatures = headers.get("webhook-signature", "").split(" ")  # two while a secret is rotated
    return any([hmac.compare_digest(expected, one.encode()) for one in signatures])


def do_once(job_id, fence, payload):
    with lock:
        seen_fence, result = done.get(job_id, (0, None))
        if fence < seen_fence: return 409, {"error": "a newer attempt has begun"}
        result = result or make_pdf(payload["invoice"])
        done[job_id] = (fence, result)
        return 200, result


def make_pdf(invoice):
    print(f"makes the PDF of invoice {invoice}", flush=True)
    return {"invoice": invoice, "pages": 3}


class Handler(BaseHTTPRequestHandler):
    timeout = 10  # seconds without a byte

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not re.fullmatch("[0-9]{1,12}", length): return self.respond(411, {})
        if int(length) > MAX_BODY_BYTES: return self.respond(413, {})
        body = self.rfile.read(int(length))
        if not is_genuine(self.headers, body): return self.respond(401, {"error": "not signed"})
        if self.headers.get("posthorn-test") == "true": return self.respond(200, {})
        fence = int(self.headers["posthorn-fence"])
        self.respond(*do_once(self.headers["webhook-id"], fence, json.loads(body)))

    def respond(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "3000"))), Handler)
print("listening on port", server.server_port, flush=True)
server.serve_forever()
