"""A gateway that speaks SSH as it should, until it does what no gateway does.

    flooding_gateway.py HOST_KEY_FILE

Prints its port. Each connection begins with a line of its own, before SSH: "WHEN WHAT", a
behaviour, or "go", which begins what waits for it. Everybody may log in; each
forwarded connection is an echo. Prints a line for each question and for each flood.

WHEN is "auth", "open" or "running": at the first request to log in, at the first for a channel,
or with "go". "never" is a gateway that behaves but for what it answers.
"""

import os
import socket
import struct
import sys
import threading
import time

import paramiko

KEY = paramiko.Ed25519Key.from_private_key_file(sys.argv[1])
GO = threading.Event()
NEVER = threading.Event()
LONGEST = 100  # seconds

def message(number, *parts):
    m = paramiko.Message()
    m.add_byte(bytes([number]))
    for part in parts:
        if isinstance(part, bool):
            m.add_boolean(part)
        elif isinstance(part, int):
            m.add_int(part)
        else:
            m.add_string(part)
    return m


def raw(number, count):
    m = paramiko.Message()
    m.add_byte(bytes([number]))
    m.add_bytes(b"z" * count)
    return m


def kexinit():
    m = paramiko.Message()
    m.add_byte(b"\x14")
    m.add_bytes(os.urandom(16))
    names = ["curve25519-sha256@libssh.org", "ssh-ed25519"]
    names += ["aes128-ctr"] * 2 + ["hmac-sha2-256"] * 2 + ["none"] * 2 + [""] * 2
    for name in names:
        m.add_string(name)
    m.add_boolean(False)
    m.add_int(0)
    return m


MUCH = b"z" * 30000
NOBODY = 99
# What floods consist of; those with a live channel's number get it.
FLOODS = {
    "unknown": lambda _: raw(200, 30000),
    "unimplemented": lambda _: message(3, 7),
    "ignore": lambda _: message(2, MUCH),
    "debug": lambda _: message(4, False, MUCH, ""),
    "banner": lambda _: message(53, MUCH, ""),
    "success": lambda _: message(52),
    "failure": lambda _: message(51, "publickey", False),
    "info-request": lambda _: message(60, "a", "b", "", 0),
    "service-accept": lambda _: message(6, "ssh-userauth"),
    "kexinit": lambda _: kexinit(),
    "newkeys": lambda _: message(21),
    "global": lambda _: message(80, "x@y", False, MUCH),
    "global-reply": lambda _: message(80, "x@y", True),
    "request-success": lambda _: message(81),
    "request-failure": lambda _: message(82),
    "open": lambda _: message(90, "session", 1, 9999, 9999),
    "open-x11": lambda _: message(90, "x11", 1, 9999, 9999, "h", 1),
    "open-agent": lambda _: message(90, "auth-agent@openssh.com", 1, 9999, 9999),
    "confirmation": lambda _: message(91, NOBODY, 1, 9999, 9999),
    "open-failure": lambda _: message(92, NOBODY, 1, "no", ""),
    "window": lambda _: message(93, NOBODY, 1),
    "window-live": lambda live: message(93, live, 0x7FFFFFFF),
    "data": lambda _: message(94, NOBODY, MUCH),
    "data-live": lambda live: message(94, live, MUCH),
    "extended-live": lambda live: message(95, live, 1, MUCH),
    "eof": lambda _: message(96, NOBODY),
    "close": lambda _: message(97, NOBODY),
    "request": lambda _: message(98, NOBODY, "exit-status", True, 0),
    "request-live": lambda live: message(98, live, "x@y", True),
    "channel-success": lambda _: message(99, NOBODY),
    "channel-failure": lambda _: message(100, NOBODY),
    "empty": lambda _: paramiko.Message(),
}


def tell(text):
    print(text, flush=True)


class Behaviour(paramiko.ServerInterface):
    def __init__(self, when, what):
        self.when, self.what = when, what
        self.transport = None
        self.live = 0  # the number that the other side has for the last channel

    def begin(self):
        what, transport, count = self.what, self.transport, 0
        end = time.monotonic() + LONGEST
        tell(f"begins: {what}")
        try:
            if what == "silence":
                with transport.packetizer._Packetizer__write_lock:
                    NEVER.wait(LONGEST)
            elif what == "deaf":
                transport._send_message(FLOODS["window-live"](self.live))
                transport.packetizer.read_message = lambda: NEVER.wait(LONGEST)
            elif what == "half-packet":
                transport.packetizer.write_all(b"\x17" * 20)
                NEVER.wait(LONGEST)
            elif what == "drip":
                while time.monotonic() < end and not NEVER.wait(0.5):
                    transport.packetizer.write_all(b"\x00")
            elif what == "garbage":
                while time.monotonic() < end:
                    transport.packetizer.write_all(os.urandom(30000))
            elif what == "drip-ignore":
                while time.monotonic() < end and not NEVER.wait(0.05):
                    transport._send_message(message(2, "z"))
            elif what == "slow-unknown":
                while time.monotonic() < end and not NEVER.wait(0.002):
                    transport._send_message(FLOODS["unknown"](0))
            elif what == "rekey-flood":
                transport._send_kex_init()
                while time.monotonic() < end:
                    transport._send_message(FLOODS["global"](0))
            elif what == "rekey":
                while time.monotonic() < end:
                    transport.renegotiate_keys()
                    count += 1
            else:
                while time.monotonic() < end:
                    transport._send_message(FLOODS[what](self.live))
                    count += 1
        except Exception as e:
            tell(f"over: {what} after {count}: {e!r}")

    def at(self, when):
        if self.when == when:
            self.when = "done"
            self.begin()

    def get_allowed_auths(self, user):
        self.at("auth")
        return b"\xff\xfe" if self.what == "methods" else "publickey"

    def check_auth_publickey(self, user, key):
        tell("key")
        self.at("auth")
        if self.what == "slow-keys":
            NEVER.wait(2.5)
        if self.what in ("slow-keys", "methods"):
            return paramiko.AUTH_FAILED
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_direct_tcpip_request(self, number, origin, destination):
        self.at("open")
        return paramiko.OPEN_SUCCEEDED

    def check_channel_request(self, kind, number):
        tell("question")
        self.one_more()
        if self.what.startswith("grant"):
            return paramiko.OPEN_SUCCEEDED
        return paramiko.OPEN_FAILED_UNKNOWN_CHANNEL_TYPE

    def check_channel_env_request(self, channel, name, value):
        tell("question")
        self.one_more()
        return False

    # One more packet, just after the answer.
    def one_more(self):
        if self.what.endswith("one-more"):
            later = threading.Timer(0.02, self.transport._send_message, [message(2, "z")])
            later.daemon = True
            later.start()


def echo(channel):
    try:
        while data := channel.recv(65536):
            channel.sendall(data)
        channel.close()
    except Exception as e:
        tell(f"a channel ended: {e!r}")


def accept(transport, behaviour):
    while transport.is_active():
        channel = transport.accept(1)
        if channel:
            behaviour.live = channel.remote_chanid
            threading.Thread(target=echo, args=[channel], daemon=True).start()


def first_line(connection):
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            return []
        line += byte
    return line.decode().split()


def serve(connection):
    words = first_line(connection)
    if words == ["go"]:
        GO.set()
    if len(words) != 2:
        connection.close()
        return
    behaviour = Behaviour(*words)
    transport = behaviour.transport = paramiko.Transport(connection)
    # Only where that is what it should do: a flood is no good time for it.
    transport.packetizer.REKEY_BYTES = transport.packetizer.REKEY_PACKETS = 1 << 60
    transport.add_server_key(KEY)
    try:
        transport.start_server(server=behaviour)
    except Exception as e:
        tell(f"no session: {e!r}")
        return
    threading.Thread(target=accept, args=[transport, behaviour], daemon=True).start()
    while transport.is_active() and not transport.is_authenticated():
        NEVER.wait(0.005)
    if behaviour.when == "running" and GO.wait(LONGEST):
        behaviour.at("running")


listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(50)
tell(f"port {listener.getsockname()[1]}")
while True:
    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
