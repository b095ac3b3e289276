"""A stand-in web server: tells the names that clients ask for in TLS, and their requests.

    tls_server.py ADDRESS PORT CERTIFICATE_AND_KEY
"""
import http.server
import ssl
import sys

address, port, certificate = sys.argv[1], int(sys.argv[2]), sys.argv[3]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        print(self.command, self.path, flush=True)
        text = b"hello\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def finish_request(self, request, client_address):
        # Not in the thread that accepts.
        request = context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, *_):
        pass


def tell(_socket, name, _context):
    print("sni", name, flush=True)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate)
context.sni_callback = tell
server = Server((address, port), Handler)
print("ready", flush=True)
server.serve_forever()
