"""What nats.py's tests import as tests.utils, which their source archive leaves out: test cases that start servers.

Owns the server processes (the program that FOREIGN_SERVER names) and their ports and users, which the tests know by
heart. Cases that need TLS or WebSocket are not here: they are skipped, and no list names them.
"""

import asyncio
import http.client
import os
import subprocess
import time
import unittest
from functools import wraps

TEST_SECONDS = 10


class NATSD:
    """One server. The tests read `port` and `http_port`, and call start and stop."""

    def __init__(self, port=4222, user="", password="", token="", http_port=8222, cluster_port=None, routes=(), config_file=None):
        self.port, self.http_port = port, http_port
        self.proc = None
        self.arguments = ["-a", "127.0.0.1", "-p", str(port), "-m", str(http_port)]
        for flag, value in (("--user", user), ("--pass", password), ("--auth", token), ("-c", config_file)):
            if value:
                self.arguments += [flag, value]
        if cluster_port:
            self.arguments += ["--cluster_listen", f"nats://127.0.0.1:{cluster_port}", "--cluster_name", "CLUSTER"]
            self.arguments += ["--routes", ",".join(f"nats://127.0.0.1:{route}" for route in routes)]

    def start(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.proc = subprocess.Popen([os.environ["FOREIGN_SERVER"], *self.arguments], **quiet)
        return self.proc

    def stop(self):
        if self.proc and self.proc.returncode is None:
            self.proc.kill()
            self.proc.wait()

    def send_signal(self, sig):
        if self.proc and self.proc.returncode is None:
            self.proc.send_signal(sig)


def start_natsd(natsd):
    """Starts a server and waits until its monitor answers."""
    natsd.start()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            endpoint = http.client.HTTPConnection(f"127.0.0.1:{natsd.http_port}", timeout=1)
            endpoint.request("GET", "/varz")
            if endpoint.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"no answer from the monitor on port {natsd.http_port}")


class Servers(unittest.TestCase):
    """Starts the first `started` (all, if None) of `servers` for each test."""

    servers = ()
    started = None

    def setUp(self):
        super().setUp()
        self.loop = asyncio.new_event_loop()
        self.server_pool = [NATSD(**server) for server in self.servers]
        for natsd in self.server_pool[: self.started]:
            start_natsd(natsd)

    def tearDown(self):
        for natsd in self.server_pool:
            natsd.stop()
        self.loop.close()


class SingleServerTestCase(Servers):
    servers = [{}]


class MultiServerAuthTestCase(Servers):
    servers = [
        {"port": 4223, "user": "foo", "password": "bar", "http_port": 8223},
        {"port": 4224, "user": "hoge", "password": "fuga", "http_port": 8224},
    ]


class MultiServerAuthTokenTestCase(Servers):
    servers = [
        {"port": 4223, "token": "token", "http_port": 8223},
        {"port": 4224, "token": "token", "http_port": 8224},
        {"port": 4225, "token": "secret", "http_port": 8225},
    ]


class ClusteringTestCase(Servers):
    servers = [
        {"port": 4223 + n, "http_port": 8223 + n, "cluster_port": 6223 + n, "routes": (6223, 6224, 6225)} for n in range(3)
    ]
    started = 1


class ClusteringDiscoveryAuthTestCase(Servers):
    servers = [
        {"port": 4223 + n, "http_port": 8223 + n, "cluster_port": 6223 + n, "routes": (6223,), "user": "foo", "password": "bar"}
        for n in range(3)
    ]


class NoAuthUserServerTestCase(Servers):
    servers = [{"config_file": os.path.join(os.path.dirname(os.path.abspath(__file__)), "no_auth_user.conf")}]


class NotHere(unittest.TestCase):
    """A case whose servers need certificates, nkey files or JetStream."""

    def setUp(self):
        raise unittest.SkipTest("not part of this run")


TLSServerTestCase = TLSServerHandshakeFirstTestCase = MultiTLSServerAuthTestCase = NotHere
NkeysServerTestCase = TrustedServerTestCase = SingleJetStreamServerTestCase = NotHere
SingleJetStreamServerLimitsTestCase = SingleWebSocketServerTestCase = SingleWebSocketTLSServerTestCase = NotHere


def _run(seconds):
    def decorate(test):
        @wraps(test)
        def wrapper(self, *args, **kwargs):
            async def bounded():
                return await asyncio.wait_for(test(self, *args, **kwargs), seconds)

            return self.loop.run_until_complete(bounded())

        return wrapper

    return decorate


async_test = async_debug_test = _run(TEST_SECONDS)
async_long_test = _run(6 * TEST_SECONDS)


def get_config_file(name):
    raise unittest.SkipTest(f"{name} is not part of this run")
