//! Real software through licfwd on fixed ports: the same results as without it.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::rig::pypi::python_with;
use crate::rig::{
    Gateway, Job, LIMIT, Outcome, Running, Scratch, free_port, process, skip, wait_until,
};

/// A server, and a licfwd that leads to it.
struct Tunnel {
    job: Job,
    _gateway: Gateway,
    _licfwd: Running,
    /// The port on this side; the server's own port is `direct`.
    port: u16,
    direct: u16,
}

impl Tunnel {
    /// `licfwd -N -L port:127.0.0.1:direct gw`, as a user would type it.
    fn to(direct: u16) -> Tunnel {
        let (job, gateway, port) = (Job::new(), Gateway::start(), free_port());
        let mut call = job.licfwd(&gateway);
        call.args(["-N", "-L", &format!("{port}:127.0.0.1:{direct}"), "gw"]);
        let licfwd = job.spawn(&mut call);
        wait_until("licfwd serves", LIMIT, || answers(port));
        Tunnel { job, _gateway: gateway, _licfwd: licfwd, port, direct }
    }

    /// Runs a client directly and through the tunnel.
    fn both(&self, client: impl Fn(u16) -> Command) -> [Outcome; 2] {
        [self.direct, self.port].map(|port| {
            let outcome = self.job.spawn(&mut client(port)).wait(PATIENCE);
            assert_eq!(outcome.code, 0, "{outcome:?}");
            outcome
        })
    }
}

const PATIENCE: Duration = Duration::from_secs(180);

fn answers(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// A program of PATH, or of PostgreSQL's own directory in Debian.
fn program(name: &str) -> Option<PathBuf> {
    let places = std::env::var("PATH").unwrap_or_default();
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = debian.filter_map(|version| Some(version.ok()?.path().join("bin")));
    let places: Vec<PathBuf> = debian.chain(std::env::split_paths(&places)).collect();
    let mut files = places.into_iter().map(|place| place.join(name));
    files.find(|file| file.is_file())
}

/// Goal: PostgreSQL answers queries the same, bulk answers and bulk uploads
/// included, and serves twenty clients at once without a failure.
#[test]
fn postgresql() {
    let programs = ["initdb", "postgres", "psql", "pgbench"].map(program);
    let [Some(initdb), Some(postgres), Some(psql), Some(pgbench)] = programs else {
        skip!("PostgreSQL is not installed (postgresql)");
    };
    let database = Database::start(&initdb, &postgres);
    let tunnel = Tunnel::to(database.port);
    let client = |program: &Path, port: u16, arguments: &[&str]| {
        let mut call = tunnel.job.command(program);
        call.args(["-h", "127.0.0.1", "-U", "rig", "-p", &port.to_string()]);
        call.args(arguments);
        call
    };
    let query = "SELECT n, md5(n::text), repeat('x', n % 1000) FROM generate_series(1, 5000) n";
    let upload = "CREATE TEMP TABLE t (n int, text text);
        COPY t FROM STDIN;\n";
    let rows: String = (0..20_000).map(|n| format!("{n}\trow {n}\n")).collect();
    let script = format!(
        "{upload}{rows}\\.\nSELECT count(*), md5(string_agg(text, ',' ORDER BY n)) FROM t;\n"
    );
    let script = tunnel.job.directory().write("upload.sql", &script);
    let script = script.to_str().expect("a name");
    for arguments in [["-Atc", query], ["-Atf", script]] {
        let [direct, through] = tunnel.both(|port| {
            let mut call = client(&psql, port, &["-X", "-v", "ON_ERROR_STOP=1"]);
            call.args(arguments).arg("postgres");
            call
        });
        assert!(direct.stdout.len() > 40, "{direct:?}");
        assert!(direct.stdout == through.stdout, "{}", arguments[0]);
    }

    let mut fill = client(&pgbench, tunnel.direct, &["-q", "-i", "postgres"]);
    assert_eq!(tunnel.job.run(&mut fill).code, 0);
    for outcome in tunnel.both(|port| {
        let arguments = ["-n", "-c", "20", "-t", "20", "postgres"];
        client(&pgbench, port, &arguments)
    }) {
        let all = "number of transactions actually processed: 400/400\n";
        assert!(outcome.stdout.contains(all), "{outcome:?}");
        assert!(!outcome.stderr.contains("error"), "{outcome:?}");
    }
}

/// A PostgreSQL of our own, as a user who may run one.
struct Database {
    port: u16,
    server: Option<Running>,
    _job: Job,
    _directory: Scratch,
}

impl Database {
    fn start(initdb: &Path, postgres: &Path) -> Database {
        let (job, directory, port) = (Job::new(), Scratch::new(), free_port());
        if process::is_root() {
            let number = |option| process::id(&[option, "daemon"]).parse().ok();
            chown(directory.path(), number("-u"), number("-g")).expect("chown");
        }
        let data = directory.file("data");
        let unprivileged = |program: &Path| {
            let mut call = match process::is_root() {
                true => job.command("setpriv"),
                false => job.command("env"),
            };
            if process::is_root() {
                call.args(["--reuid=daemon", "--regid=daemon", "--clear-groups"]);
            }
            call.arg(program).arg("-D").arg(&data);
            call.current_dir(directory.path());
            call
        };
        let mut make = unprivileged(initdb);
        let outcome = job.run(make.args(["-U", "rig", "-A", "trust", "-N", "-E", "UTF8"]));
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let mut serve = unprivileged(postgres);
        serve.args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k"]);
        serve.arg(directory.path()).arg("-F");
        serve.args(["-c", "dynamic_shared_memory_type=mmap"]);
        let server = job.spawn(&mut serve);
        wait_until("PostgreSQL is ready", LIMIT, || {
            server.stderr().contains("ready to accept connections")
        });
        Database { port, server: Some(server), _job: job, _directory: directory }
    }
}

impl Drop for Database {
    /// Killed, it would leave shared memory behind.
    fn drop(&mut self) {
        let server = self.server.take().expect("the server");
        process::signal("INT", &[server.pid()]);
        server.wait(LIMIT);
    }
}

/// Goal: fifty pipelining clients of Redis lose no command, and large values
/// come back as they were.
#[test]
fn redis() {
    let programs = ["redis-server", "redis-benchmark", "redis-cli"].map(program);
    let [Some(server), Some(benchmark), Some(cli)] = programs else {
        skip!("Redis is not installed (redis-server, redis-tools)");
    };
    let (job, port) = (Job::new(), free_port());
    // It writes its title over the environment by which the job would find it.
    let mut serve = job.command("setpriv");
    serve.args(["--pdeathsig", "KILL"]).arg(server);
    serve.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
    let _server = job.spawn(serve.args(["--save", "", "--appendonly", "no"]));
    wait_until("Redis is ready", LIMIT, || answers(port));

    let tunnel = Tunnel::to(port);
    let client = |program: &Path, port: u16, arguments: &str| {
        let mut call = tunnel.job.command(program);
        call.args(["-p", &port.to_string()]).args(arguments.split(' '));
        call
    };
    for (n, outcome) in [1, 2]
        .into_iter()
        .zip(tunnel.both(|port| client(&benchmark, port, "-c 50 -P 16 -n 20000 -q INCR hits")))
    {
        assert!(outcome.stdout.contains("requests per second"), "run {n}");
    }
    let value = "x".repeat(100_000);
    let get = |port: u16, what: &str| tunnel.job.run(&mut client(&cli, port, what)).stdout;
    assert_eq!(get(port, "GET hits"), "40000\n");
    assert_eq!(get(tunnel.port, &format!("SET big {value}")), "OK\n");
    for port in [tunnel.port, port] {
        assert!(get(port, "GET big") == format!("{value}\n"));
    }
    let tests = "-c 50 -P 16 -n 800 -d 400 -q -t set,get,lpush,lrange_100";
    tunnel.both(|port| client(&benchmark, port, tests));
}

/// Goal: a notebook's kernel runs behind the tunnel and answers over its
/// websocket.
#[test]
fn jupyter() {
    let packages = &["jupyter_server", "ipykernel", "websocket-client"];
    let python = match python_with("jupyter", &[packages]) {
        Ok(python) => python,
        Err(why) => skip!("no Jupyter from PyPI: {why}"),
    };
    let (job, port) = (Job::new(), free_port());
    let mut serve = job.command(&python);
    serve.args(["-m", "jupyter_server", "--no-browser", "--allow-root"]);
    serve.args(["--ip=127.0.0.1", &format!("--port={port}")]);
    serve.args(["--ServerApp.port_retries=0", "--IdentityProvider.token=rig"]);
    let _server = job.spawn(&mut serve);
    wait_until("Jupyter is ready", PATIENCE, || answers(port));

    let tunnel = Tunnel::to(port);
    let notebook = tunnel.job.directory().write("notebook.py", NOTEBOOK);
    let [direct, through] = tunnel.both(|port| {
        let mut call = tunnel.job.command(&python);
        call.arg(&notebook).arg(port.to_string());
        call
    });
    assert_eq!(direct.stdout, "busy,49995000,1000000,idle\n");
    assert_eq!(direct.stdout, through.stdout);
}

/// Starts a kernel, runs a cell, prints what came back over the websocket.
const NOTEBOOK: &str = r#"
import json, sys, urllib.request, uuid, websocket
at = f"127.0.0.1:{sys.argv[1]}/api/kernels"
def call(path, method):
    request = urllib.request.Request(f"http://{at}{path}", method=method, data=b"{}" if method == "POST" else None)
    request.add_header("Authorization", "token rig")
    return urllib.request.urlopen(request, timeout=150).read()
kernel = json.loads(call("", "POST"))["id"]
socket = websocket.create_connection(f"ws://{at}/{kernel}/channels?token=rig", timeout=150)
header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "rig", "username": "", "version": "5.3", "date": ""}
code = "print(sum(range(10_000)))\n'x' * 1_000_000"
socket.send(json.dumps({"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": {
    "code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}}))
seen = []
while not seen or seen[-1] != "idle":
    message = json.loads(socket.recv())
    if message.get("parent_header", {}).get("msg_id") != header["msg_id"]:
        continue
    content = message["content"]
    if message["msg_type"] == "status":
        seen.append(content["execution_state"])
    elif message["msg_type"] == "stream":
        seen.append(content["text"].strip())
    elif message["msg_type"] == "execute_result":
        seen.append(str(content["data"]["text/plain"].count("x")))
print(",".join(seen))
socket.close()
call(f"/{kernel}", "DELETE")
"#;
