"""What two dashboards show of two servers. Called by run.sh."""
import os, re, socket, subprocess, sys, time, urllib.request

# Series that nats-server has and the broker cannot have, each with its reason.
KNOWN = {}

# Labels whose values differ from run to run.
LABELS = re.compile(r'(server_id|id|host|start|last_activity|idle|uptime|port|ip|value|server_name|rtt|cid)="[^"]*"')

CONFIG = """listen: "127.0.0.1:%d"
http: "127.0.0.1:%d"
server_name: dashboards
accounts { A: { users: [{ user: a, password: p }] }, SYS: { users: [{ user: s, password: p }] } }
system_account: SYS
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fetch(url):
    end = time.time() + 10
    while True:
        try:
            return urllib.request.urlopen(url, timeout=10).read().decode()
        except OSError:
            if time.time() > end:
                raise
            time.sleep(0.2)


def series(text):
    lines = [line for line in text.splitlines() if line.startswith(("gnatsd_", "nats_", "jetstream_"))]
    return {LABELS.sub(r'\1="…"', line.rsplit(" ", 1)[0]) for line in lines}


def shape(text):
    """nats-top's lines without numbers, units and times; blanks do not count."""
    text = re.sub(r"ID: +\S+", "ID: #", text)
    lines = [re.sub(r"\S*\d\S*", "#", line) for line in text.splitlines()]
    return [re.sub(r"\s+", " ", line).strip() for line in lines if line.strip()]


def look(program, scratch):
    client, monitor, metrics = free_port(), free_port(), free_port()
    path = os.path.join(scratch, "server.conf")
    with open(path, "w") as file:
        file.write(CONFIG % (client, monitor))
    log = open(os.path.join(scratch, "log"), "w")
    running = [subprocess.Popen([program, "-c", path], stdout=log, stderr=log)]
    try:
        fetch(f"http://127.0.0.1:{monitor}/varz")
        user = socket.create_connection(("127.0.0.1", client))
        hello = b'CONNECT {"user":"a","pass":"p","name":"seen","lang":"none","version":"1","verbose":false}\r\n'
        user.sendall(hello + b"SUB foo 1\r\n" + b"PUB foo 2\r\nhi\r\n" * 10 + b"PING\r\n")
        # until the server's own first PING has told it the round trip
        time.sleep(3)
        user.sendall(b"PONG\r\n")
        top = [os.environ["NATS_TOP"], "-s", "127.0.0.1", "-m", str(monitor), "-o", "-"]
        top = subprocess.run(top, capture_output=True, text=True, timeout=30)
        flags = "-varz -connz -connz_detailed -routez -subz -healthz -gatewayz -leafz -accountz -accstatz".split()
        exporter = [os.environ["EXPORTER"], "-addr", "127.0.0.1", "-port", str(metrics), *flags]
        running.append(subprocess.Popen([*exporter, f"http://127.0.0.1:{monitor}"], stdout=log, stderr=log))
        url = f"http://127.0.0.1:{metrics}/metrics"
        fetch(url)
        # some counters appear with the first scrape
        return series(fetch(url)), shape(top.stdout), top.returncode
    finally:
        for process in reversed(running):
            process.kill()
            process.wait()


candidate, reference = (look(program, sys.argv[3]) for program in sys.argv[1:3])
missing = sorted(reference[0] - candidate[0] - set(KNOWN))
more = sorted(candidate[0] - reference[0])
for mark, lines in ("-", missing), ("+", more):
    for line in lines:
        print(mark, line)
print(f"prometheus-nats-exporter: {len(reference[0])} series of nats-server, {len(missing)} missing, {len(more)} more")
same = candidate[1:] == reference[1:] and candidate[1]
if not same:
    print("nats-top, nats-server:", *reference[1], "the broker:", *candidate[1], sep="\n  ")
print(f"nats-top: {len(candidate[1])} lines, {'the same' if same else 'DIFFERENT'}")
sys.exit(0 if same and not missing and not more and reference[0] else 1)
