//! Licenses on the web: a proxy at a port of this node, to the hosts of its target alone.

use crate::rig::crowd::{all_at_once, alone};
use crate::rig::job::over_ssh;
use crate::rig::license_server::RefusingPort;
use crate::rig::nodes::{Nodes, way_out};
use crate::rig::pypi::python_with;
use crate::rig::traffic::{
    CLOSED, End, Pattern, connect, exchange_over, read_line, receive, send, uninterrupted,
};
use crate::rig::web::{DEAD, NAME, OTHER, WebServer, connect_through, head, read_head};
use crate::rig::{
    FLOOD, Gateway, Job, LIMIT, LicenseServer, Promise, Service, Sites, Tunnel, eventually, has,
    long, process, skip, wait_until,
};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// A web server whose names the gateway alone knows, and a tunnel to two of them.
struct Web {
    job: Job,
    server: WebServer,
    tunnel: Tunnel,
}

impl Web {
    /// # Errors
    /// Why this machine cannot have it.
    fn new() -> Result<(Web, Gateway), String> {
        if let Some(missing) = ["openssl", "python3", "curl"].into_iter().find(|it| !has(it)) {
            return Err(format!("not installed: {missing}"));
        }
        let job = Job::new();
        let server = WebServer::start(&job);
        let gateway = server.gateway(&[])?;
        let port = server.port();
        let target = format!("https://{NAME}:{port},https://{DEAD}:{port}/");
        let tunnel = Tunnel::of(Job::new(), |job| {
            let mut command = job.licfwd(&gateway);
            command.args(["-v", "gw", &target]);
            command
        });
        Ok((Web { job, server, tunnel }, gateway))
    }

    /// A program that finds the proxy and the server's certificate where it looks for them.
    fn client(&self, program: &str) -> Command {
        let mut client = self.job.command(program);
        client.env("https_proxy", format!("http://localhost:{}", self.tunnel.port()));
        for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
            client.env(name, self.server.certificate());
        }
        client
    }

    fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}/{path}", self.server.port())
    }

    /// What `client` says of a server that it reaches, of one that it must not, and of one
    /// that cannot be reached; the first has to be heard of, and nobody else.
    #[track_caller]
    fn is_asked_by(&self, client: &str, get: impl Fn(&str) -> Command) {
        let said = [NAME, OTHER, DEAD].map(|host| {
            let outcome = self.job.run(&mut get(&self.url(host, client)));
            format!("{}{}", outcome.stdout, outcome.stderr)
        });
        for (host, said) in [NAME, OTHER, DEAD].iter().zip(&said) {
            let mut lines = said.lines().filter(|line| line.contains("licfwd: "));
            eprintln!("{client}: {host}: {}", lines.next().or(said.lines().last()).unwrap_or(""));
        }
        assert!(said[0].contains("hello"), "{}", said[0]);
        assert!(said[1].contains("403"), "{}", said[1]);
        assert!(said[2].contains("502"), "{}", said[2]);
        // What it prints before it answers may be read here after the answer has come.
        wait_until("its words are read", LIMIT, || self.server.heard().len() > 1);
        let heard = self.server.heard();
        assert_eq!(heard, [format!("sni {NAME}"), format!("GET /{client}")], "{client}");
    }
}

/// Asks by urllib, or by requests.
const PYTHON: &str = r#"
import sys, urllib.request
try:
    if sys.argv[1] == "urllib":
        print(urllib.request.urlopen(sys.argv[2], timeout=60).read().decode())
    else:
        import requests
        print(requests.get(sys.argv[2], timeout=60).text)
except Exception as e:
    print(type(e).__name__, e)
"#;

/// Goal: curl reaches the server that it names by the name that it names, and hears why it
/// reaches no other.
#[test]
fn curl() {
    let (web, _gateway) = match Web::new() {
        Ok(web) => web,
        Err(why) => skip!("{why}"),
    };
    web.is_asked_by("curl", |url| {
        let mut curl = web.client("curl");
        curl.args(["-sSv", "--max-time", "60", url]);
        curl
    });
    let port = web.server.port();
    web.tunnel.wait_for_log(&format!("refused a client: {OTHER}:{port} is none of"), 1);
    web.tunnel.wait_for_log(&format!("502: {DEAD}:{port} cannot be reached"), 1);
}

/// Goal: the same for Python's urllib, which has no other program's library.
#[test]
fn urllib() {
    let (web, _gateway) = match Web::new() {
        Ok(web) => web,
        Err(why) => skip!("{why}"),
    };
    web.is_asked_by("urllib", |url| {
        let mut python = web.client("python3");
        python.args(["-c", PYTHON, "urllib", url]);
        python
    });
}

const JAVA: &str = r#"
import java.net.*;
import java.net.http.*;

public class Get {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newBuilder().proxy(ProxySelector.getDefault()).build();
        var request = HttpRequest.newBuilder(URI.create(arguments[0])).build();
        try {
            var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        } catch (Exception e) {
            System.out.println(e);
        }
    }
}
"#;

/// Goal: the same for Java's HttpClient, which is told of proxies in its own way.
#[test]
fn java() {
    if over_ssh() && !long() {
        return;
    }
    if !["java", "javac", "keytool"].into_iter().all(has) {
        skip!("no Java here");
    }
    let (web, _gateway) = match Web::new() {
        Ok(web) => web,
        Err(why) => skip!("{why}"),
    };
    web.job.directory().write("Get.java", JAVA);
    let mut keytool = web.job.command("keytool");
    keytool.args(["-importcert", "-noprompt", "-alias", "a", "-keystore", "trust"]);
    keytool.args(["-storepass", "changeit", "-file"]).arg(web.server.certificate());
    for outcome in
        [web.job.run(&mut keytool), web.job.run(web.job.command("javac").arg("Get.java"))]
    {
        assert_eq!(outcome.code, 0, "{outcome:?}");
    }
    web.is_asked_by("java", |url| {
        let mut java = web.client("java");
        java.args(["-Dhttps.proxyHost=localhost"]);
        java.arg(format!("-Dhttps.proxyPort={}", web.tunnel.port()));
        java.args(["-Djavax.net.ssl.trustStore=trust"]);
        java.args(["-Djavax.net.ssl.trustStorePassword=changeit", "Get", url]);
        java
    });
}

/// Goal: the same for requests; and Gurobi's library, with a license file of made-up ids,
/// asks for a token by its server's own name.
#[test]
fn requests_and_gurobi() {
    let packages = ["requests==2.32.3", "gurobipy==13.0.3"];
    let python = match python_with("web-clients", &[&packages]) {
        Ok(python) => python,
        Err(why) => skip!("no license clients from PyPI: {why}"),
    };
    let python = python.to_str().expect("a name");
    let (web, _gateway) = match Web::new() {
        Ok(web) => web,
        Err(why) => skip!("{why}"),
    };
    web.is_asked_by("requests", |url| {
        let mut client = web.client(python);
        client.args(["-c", PYTHON, "requests", url]);
        client
    });
    if web.server.port() != 443 {
        skip!("only root can listen where Gurobi's library asks");
    }
    let ids = "WLSACCESSID=11111111-2222-3333-4444-555555555555\n\
               WLSSECRET=66666666-7777-8888-9999-000000000000\nLICENSEID=123456\n";
    let license = web.job.directory().write("gurobi.lic", ids);
    let before = web.server.heard().len();
    let mut gurobi = web.client(python);
    gurobi.env("GRB_LICENSE_FILE", license);
    let outcome = web.job.run(gurobi.args(["-c", "import gurobipy; gurobipy.Env()"]));
    let name = format!("sni {NAME}");
    let told = eventually(LIMIT, || web.server.heard()[before..].contains(&name));
    let heard = web.server.heard();
    eprintln!("gurobipy: {:?}, {}", &heard[before..], outcome.stderr.lines().last().unwrap_or(""));
    assert!(told, "{outcome:?}");
}

/// A license server in a web server's place, and a tunnel to it and nowhere else.
struct Plain {
    server: LicenseServer,
    tunnel: Tunnel,
    gateway: Gateway,
}

impl Plain {
    fn serving(service: Service) -> Plain {
        let (gateway, server) = (Gateway::start(), LicenseServer::start(service));
        let target = format!("https://127.0.0.1:{}", server.port());
        let tunnel = Tunnel::of(Job::new(), |job| {
            let mut command = job.licfwd(&gateway);
            command.args(["-v", "gw", &target]);
            command
        });
        Plain { server, tunnel, gateway }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }
}

/// Goal: 200 clients at once get as many bytes as they send, half of them half-closing.
#[test]
fn two_hundred_at_once() {
    const SIZE: usize = 1_000_000;
    let plain = Plain::serving(Service::Exchange);
    let (proxy, to) = (plain.tunnel.port(), plain.address());
    let begin = Instant::now();
    all_at_once(200, FLOOD, move |number| {
        let end = if number % 2 == 0 { End::HalfClose } else { End::Counted };
        exchange_over(connect_through(proxy, &to)?, SIZE, SIZE, number as u64, end)
    });
    eprintln!("200 clients, 1 MB each way: {:.1?}", begin.elapsed());
    wait_until("all have left", LIMIT, || plain.server.clients() == 0);
}

/// Goal: a head may come byte by byte, up to 8 kB of it, and with a megabyte behind it that
/// nothing is lost of.
#[test]
fn heads_in_any_pieces() {
    const SIZE: usize = 1 << 20;
    let plain = Plain::serving(Service::Exchange);
    let (proxy, to) = (plain.tunnel.port(), plain.address());

    let mut slow = connect(proxy).expect("connect");
    slow.set_nodelay(true).expect("nodelay");
    for byte in head(&to).bytes() {
        slow.write_all(&[byte]).expect("a byte");
    }
    assert!(read_head(&mut slow).expect("an answer").starts_with("HTTP/1.1 200 "));
    exchange_over(slow, 1000, 1000, 1, End::HalfClose).expect("the stream");

    let mut long = head(&to).replacen("\r\n\r\n", "\r\nX: ", 1);
    long += &"x".repeat(8192 - 4 - long.len());
    let mut client = connect(proxy).expect("connect");
    client.write_all((long + "\r\n\r\n").as_bytes()).expect("a head");
    assert!(read_head(&mut client).expect("an answer").starts_with("HTTP/1.1 200 "));

    let took = alone(FLOOD, move || {
        let mut client = connect(proxy)?;
        let mut writer = client.try_clone()?;
        let sends = thread::spawn({
            let words = format!("{}{SIZE} {SIZE} 2\n", head(&to));
            move || {
                // In one piece with what follows.
                let mut all = words.into_bytes();
                send(&mut all, Pattern::up(2), SIZE)?;
                writer.write_all(&all)
            }
        });
        assert!(read_head(&mut client)?.starts_with("HTTP/1.1 200 "));
        let mut reader = io::BufReader::new(client);
        receive(&mut reader, Pattern::down(2), SIZE)?;
        assert_eq!(read_line(&mut reader)?, format!("RECEIVED {SIZE}"));
        sends.join().expect("the sender")
    });
    eprintln!("a megabyte behind the head, and one back: {took:.1?}");
}

/// What a client gets that says `words` and waits for the end.
fn answer(proxy: u16, words: &[u8]) -> io::Result<String> {
    let mut client = connect(proxy)?;
    // It may be closed meanwhile.
    let _ = client.write_all(words);
    let mut answer = Vec::new();
    match client.read_to_end(&mut answer) {
        Err(e) if e.kind() != io::ErrorKind::ConnectionReset => Err(e),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

/// Goal: a head that is not exactly understood, or names another host, gets its status at
/// once and reaches nothing; so does what is no head at all.
#[test]
fn bent_heads() {
    let plain = Plain::serving(Service::Echo);
    let other = LicenseServer::start(Service::Echo);
    let (proxy, to, port) = (plain.tunnel.port(), plain.address(), plain.server.port());
    let probes = plain.server.served();
    let other_port = other.port();
    let heads: Vec<(String, u16)> = [
        ("CONNECT 127.0.0.1:{other} HTTP/1.1", 403),
        ("CONNECT localhost:{port} HTTP/1.1", 403),
        ("CONNECT 127.0.0.1.:{other} HTTP/1.1", 403),
        ("CONNECT 127.1:{port} HTTP/1.1", 403),
        ("CONNECT 0x7f000001:{port} HTTP/1.1", 403),
        ("CONNECT [::ffff:127.0.0.1]:{port} HTTP/1.1", 403),
        ("CONNECT [::1]:{port} HTTP/1.1", 403),
        ("CONNECT 127.0.0.1:443 HTTP/1.0", 403),
        ("CONNECT 127.0.0.1:{other} HTTP/1.1\r\nHost: {to}", 403),
        ("GET https://{to}/ HTTP/1.1", 405),
        ("GET / HTTP/1.1\r\nHost: {to}", 405),
        ("POST http://{to}/ HTTP/1.1\r\nContent-Length: 5", 405),
        ("connect {to} HTTP/1.1", 405),
        ("OPTIONS * HTTP/1.1", 405),
        ("CONNECTX {to} HTTP/1.1", 405),
        ("CONNECT {to}", 400),
        ("CONNECT  {to} HTTP/1.1", 400),
        ("CONNECT {to}  HTTP/1.1", 400),
        (" CONNECT {to} HTTP/1.1", 400),
        ("CONNECT\t{to}\tHTTP/1.1", 400),
        ("CONNECT {to} HTTP/1.1 ", 400),
        ("CONNECT {to} HTTP/2.0", 400),
        ("CONNECT {to} HTTP/1.10", 400),
        ("CONNECT {to} http/1.1", 400),
        ("CONNECT {to} HTTP/1.1 HTTP/1.1", 400),
        ("CONNECT 127.0.0.1 HTTP/1.1", 400),
        ("CONNECT 127.0.0.1: HTTP/1.1", 400),
        ("CONNECT :{port} HTTP/1.1", 400),
        ("CONNECT 127.0.0.1:0 HTTP/1.1", 400),
        ("CONNECT 127.0.0.1:+{port} HTTP/1.1", 400),
        ("CONNECT {to}:{other} HTTP/1.1", 400),
        ("CONNECT {to}, HTTP/1.1", 400),
        ("CONNECT user@{to} HTTP/1.1", 400),
        ("CONNECT https://{to} HTTP/1.1", 400),
        ("CONNECT {to}/ HTTP/1.1", 400),
        ("CONNECT %31%32%37.0.0.1:{port} HTTP/1.1", 400),
        ("CONNECT [127.0.0.1]:{port} HTTP/1.1", 400),
        ("CONNECT {to}\0 HTTP/1.1", 400),
        ("CONNECT {to} HTTP/1.1\nHost: {to}", 400),
        ("CONNECT {to} HTTP/1.1\rHost: {to}", 400),
        ("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nHost: {to}", 400),
        ("CONNECT {to} HTTP/1.1\r\n folded", 400),
        ("CONNECT {to} HTTP/1.1\r\nX : y", 400),
        ("CONNECT {to} HTTP/1.1\r\nno field", 400),
        ("\r\nCONNECT {to} HTTP/1.1", 400),
        ("\u{16}\u{3}\u{1}CONNECT {to} HTTP/1.1", 400),
        ("\u{5}\u{1}CONNECT {to} HTTP/1.1", 400),
    ]
    .into_iter()
    .map(|(words, status)| {
        let words = words.replace("{to}", &to).replace("{port}", &port.to_string());
        (words.replace("{other}", &other_port.to_string()), status)
    })
    .collect();
    let count = heads.len();
    assert!(count >= 40);
    let begin = Instant::now();
    all_at_once(count, LIMIT, move |number| {
        let (words, status) = &heads[number];
        let begin = Instant::now();
        let answer = answer(proxy, format!("{words}\r\n\r\nbehind it").as_bytes())?;
        let right = answer.starts_with(&format!("HTTP/1.1 {status} licfwd: "));
        assert!(right, "{words:?}: not {status}: {answer:?}");
        let allows = answer.contains("\r\nAllow: CONNECT\r\n");
        assert_eq!(allows, *status == 405, "{words:?}: {answer:?}");
        let way = format!("https://127.0.0.1:{other_port},127.0.0.1:{port}");
        assert!(!words.starts_with("CONNECT 127.0.0.1:{other}") || answer.contains(&way));
        assert!(begin.elapsed() < Duration::from_secs(6), "{words:?}: {:?}", begin.elapsed());
        Ok(())
    });
    eprintln!("{count} bent heads: {:.1?}", begin.elapsed());
    // Too long, in whichever way.
    for words in [vec![b'x'; 8193], format!("{}\r\n", head(&to).trim_end()).into_bytes()] {
        let filler = [&words[..], &b"X: y\r\n".repeat(1500)].concat();
        assert_eq!(answer(proxy, &filler).expect("an end"), "");
    }
    assert_eq!((plain.server.served(), other.served()), (probes, 0), "somebody got through");
    // And it serves on.
    let mut client = connect_through(proxy, &to).expect("a stream");
    client.write_all(b"x").and_then(|()| client.read_exact(&mut [0])).expect("an echo");
}

/// What another user of this node does to it.
const ASK: &str = r#"trap '' PIPE; exec 3<>/dev/tcp/$0/$1 || exit
                     printf 'CONNECT %s HTTP/1.1\r\n\r\n' "$2" >&3
                     read -r -t 60 line <&3; echo "$? $line""#;

/// Goal: another user of this node is closed without a byte.
#[test]
fn another_user_gets_nothing() {
    if !process::is_root() {
        skip!("only root can be another user");
    }
    let plain = Plain::serving(Service::Echo);
    let probes = plain.server.served();
    let ask = |ids: &[&str]| {
        let mut command = plain.tunnel.job().command("setpriv");
        command.args(ids).args(["bash", "-c", ASK, "127.0.0.1"]);
        command.arg(plain.tunnel.port().to_string()).arg(plain.address());
        plain.tunnel.job().run(command.current_dir("/")).stdout
    };
    assert_eq!(ask(&["--reuid=2", "--regid=2", "--clear-groups"]), CLOSED);
    assert_eq!(ask(&["--clear-groups"]), "0 HTTP/1.1 200 Connection established\r\n");
    assert_eq!(plain.tunnel.logged("user 2 of this node"), 1);
    wait_until("the owner's is served", LIMIT, || plain.server.served() == probes + 1);
}

/// Goal: what is printed, and how: the variable, another name, another form, several targets
/// on one line, for a command; and what cannot be is refused.
#[test]
fn how_it_is_called() {
    let (job, gateway) = (Job::new(), Gateway::start());
    let server = LicenseServer::start(Service::Echo);
    let here = format!("127.0.0.1:{}", server.port());
    let call = |words: &[&str]| job.run(job.licfwd(&gateway).arg("gw").args(words));
    let is_proxy = |value: &str| {
        let proxy = crate::rig::job::port_of(value);
        let mut client = connect_through(proxy, &here).expect("a stream");
        client.write_all(b"x").and_then(|()| client.read_exact(&mut [0])).expect("an echo");
    };
    for words in [
        &[&*format!("https://{here}")][..],
        &[&format!("https_proxy=https://{here}/,https://unknown.invalid")],
        &["https://*,unknown.invalid,*:*"],
    ] {
        let outcome = call(words);
        assert_eq!(outcome.stderr, "", "{words:?}");
        is_proxy(outcome.line().strip_prefix("export https_proxy=").expect("a proxy"));
    }
    let outcome = call(&[&format!("A={here}"), &format!("HTTPS_PROXY=https://{here}")]);
    let values = crate::rig::flexnet::exports(outcome.line());
    is_proxy(&values["HTTPS_PROXY"]);
    assert!(values["A"].ends_with("@localhost"), "{outcome:?}");
    let outcome = call(&["--format", "localhost:{port}", &format!("P=https://{here}")]);
    let value = outcome.line().strip_prefix("export P=localhost:").expect("a port");
    is_proxy(&format!("http://localhost:{value}"));
    let outcome = call(&[&format!("https://{here}"), "--", "sh", "-c", "echo $https_proxy"]);
    assert!(outcome.line().starts_with("http://localhost:"), "{outcome:?}");
    let outcome = call(&["--shell", "csh", &format!("https://{here}")]);
    assert!(outcome.line().starts_with("setenv https_proxy http://localhost:"), "{outcome:?}");

    if TcpListener::bind("[::1]:0").is_ok() {
        for shell in crate::rig::installed(&["bash", "zsh"]) {
            let call = r#"eval $("$@") && eval "$("$@")" && echo "$https_proxy""#;
            let mut command = job.command(shell);
            command.args(["-c", call, shell]).arg(crate::rig::job::licfwd());
            command.arg("-F").arg(gateway.config()).args(["--listen", "::1", "gw"]);
            let outcome = job.run(command.arg(format!("https://{here}")));
            assert!(outcome.stdout.starts_with("http://[::1]:"), "{shell}: {outcome:?}");
        }
        let outcome = call(&["--listen", "::1", "--shell", "csh", &format!("https://{here}")]);
        assert!(outcome.line().starts_with("setenv https_proxy 'http://[::1]:"), "{outcome:?}");
    }

    for (words, why) in [
        (&[&*format!("https://{here}+443")][..], "no + here"),
        (&["https://a", "https://b"], "https_proxy=https://first,second"),
        (&["https://a/b"], "no path"),
        (&["http://a"], "only https://"),
        (&["https://*.a"], "whole host"),
        (&["-D", "1080", "https://a"], "https://"),
    ] {
        call(words).fails(64, &[why]);
    }
}

/// Goal: the first host is asked, as any license server; a `*` is not.
#[test]
fn the_first_host_is_asked() {
    let (job, gateway) = (Job::new(), Gateway::start());
    let refusing = RefusingPort::new();
    let (dead, server) = (refusing.port(), LicenseServer::start(Service::Echo));
    let call = |targets: &str| {
        let mut call = job.licfwd(&gateway);
        job.run(call.args(["--tries", "1", "gw", targets]))
    };
    let dead_first = format!("https://127.0.0.1:{dead},127.0.0.1:{}", server.port());
    call(&dead_first).fails(69, &[&format!("127.0.0.1:{dead}"), "cannot be reached"]);
    for (target, code) in [(&*dead_first, 69), ("https://*", 0)] {
        let mut check = job.licfwd(&gateway);
        let outcome = job.run(check.args(["--check", "gw", target]));
        assert_eq!((outcome.code, &*outcome.stdout), (code, ""), "{outcome:?}");
    }
    for targets in [
        format!("https://127.0.0.1:{},127.0.0.1:{dead}", server.port()),
        format!("https://*,127.0.0.1:{dead}"),
    ] {
        let asked = server.served() + usize::from(!targets.contains('*'));
        let outcome = call(&targets);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        wait_until("the server has been asked", LIMIT, || server.served() == asked);
    }
}

/// Goal: `*` stands for any host at 443, or at any port where that is a `*`, too.
#[test]
fn any_host() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::Echo);
    let port = server.port();
    for (target, status) in [
        ("https://*".to_owned(), "403"),
        (format!("https://*:{port}"), "200"),
        ("https://*:*".to_owned(), "200"),
    ] {
        let tunnel = Tunnel::of(Job::new(), |job| {
            let mut command = job.licfwd(&gateway);
            command.args(["-v", "gw", &target]);
            command
        });
        let mut client = connect(tunnel.port()).expect("connect");
        client.write_all(head(&format!("localhost:{port}")).as_bytes()).expect("a head");
        let answer = read_head(&mut client).expect("an answer");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer}");
    }
}

/// Goal: a lost gateway is one for these clients, too, and the same port serves again; and
/// so it does after a fault. Who waits for the gateway for ten seconds is told that it is
/// lost; who says for ten seconds nothing, or not all, is closed without a byte.
#[test]
fn the_port_outlives_the_gateway() {
    let mut plain = Plain::serving(Service::Echo);
    let (proxy, to) = (plain.tunnel.port(), plain.address());
    let serves = || connect_through(proxy, &to).is_ok();
    let begin = Instant::now();
    let mut slow = connect(proxy).expect("connect");
    slow.write_all(&head(&to).as_bytes()[..20]).expect("a part");
    let mut mute = connect(proxy).expect("connect");
    let mut client = connect_through(proxy, &to).expect("a stream beside them");
    plain.gateway.kill();
    assert!(!matches!(uninterrupted(|| client.read(&mut [0])), Ok(1..)), "it is closed");
    if !over_ssh() {
        let told = connect_through(proxy, &to).expect_err("no gateway").to_string();
        assert!(told.starts_with("HTTP/1.1 502 licfwd: the gateway is lost"), "{told}");
        assert_eq!(uninterrupted(|| slow.read(&mut [0])).expect("an end"), 0);
        assert_eq!(uninterrupted(|| mute.read(&mut [0])).expect("an end"), 0);
        let took = begin.elapsed();
        assert!(took >= Duration::from_secs(9), "{took:?}");
        Promise::seconds(10).kept("who waits, and who does not speak", took);
    }
    plain.gateway.restart();
    wait_until("it serves again", LIMIT, serves);
    if !over_ssh() {
        process::signal("SEGV", &[plain.tunnel.pid()]);
        plain.tunnel.wait_for_log("begins anew after a fault", 1);
        wait_until("it serves after a fault", LIMIT, serves);
    }
}

/// Goal: each hears why its own server cannot be reached, many at once.
#[test]
fn each_gets_its_own_words() {
    let gateway = match Gateway::without_name_servers() {
        Ok(gateway) => gateway,
        Err(why) => skip!("{why}"),
    };
    let dead = RefusingPort::new();
    let hosts = [format!("127.0.0.1:{}", dead.port()), format!("unknown.invalid:{}", dead.port())];
    let target = format!("https://{},{}", hosts[0], hosts[1]);
    let tunnel = Tunnel::of(Job::new(), |job| {
        let mut command = job.licfwd(&gateway);
        command.args(["--no-probe", "gw", &target]);
        command
    });
    let proxy = tunnel.port();
    // libssh2 does not tell.
    let [refused, unknown] = match over_ssh() {
        true => ["connection refused", "name or service not known"],
        false => ["connection refused, or its name is unknown there"; 2],
    };
    all_at_once(40, LIMIT, move |number| {
        let (host, why) = (&hosts[number % 2], [refused, unknown][number % 2]);
        let told = connect_through(proxy, host).expect_err("nobody is there").to_string();
        let expected = format!("HTTP/1.1 502 licfwd: {host} cannot be reached from the gateway: ");
        assert!(told.starts_with(&expected) && told.contains(why), "{why}: {told}");
        Ok(())
    });
}

/// Goal: of several gateways one will do, and another serves when it is lost.
#[test]
fn a_list_of_gateways() {
    let mut sites = Sites::of(2);
    let to = format!("127.0.0.1:{}", sites.server.port());
    let tunnel =
        Tunnel::of(Job::new(), |job| sites.call(job, &["g0,g1", &format!("https://{to}")]));
    connect_through(tunnel.port(), &to).expect("a stream");
    let serving = sites.serving()[0];
    sites.gateways[serving].kill();
    wait_until("the other serves", LIMIT, || connect_through(tunnel.port(), &to).is_ok());
}

/// Goal: of the nodes of a job those that are allowed reach it, by the name that the value
/// has; others are closed without a byte.
#[test]
fn other_nodes() {
    let (job, gateway) = (Job::new(), Gateway::start());
    let server = LicenseServer::start(Service::Echo);
    let (Some(way_out), Some(nodes)) =
        (way_out(&gateway), Nodes::start(&job, &["node1", "node2", "stranger"]))
    else {
        return;
    };
    let here = format!("127.0.0.1:{}", server.port());
    let mut call = nodes.command(&job, 0, "licfwd");
    call.arg("-F").arg(gateway.config()).args(["-o", &way_out]);
    call.args(["--listen", "0.0.0.0", "--allow", "node2", "gw", &format!("https://{here}")]);
    let outcome = job.run(&mut call);
    let proxy = outcome.line().strip_prefix("export https_proxy=http://").expect("a proxy");
    let (host, port) = proxy.split_once(':').expect("host:port");
    assert_eq!(host, "node1");
    let ask = |node| {
        let mut bash = nodes.command(&job, node, "bash");
        job.run(bash.args(["-c", ASK, host, port, &here])).stdout
    };
    assert_eq!(ask(1), "0 HTTP/1.1 200 Connection established\r\n");
    assert_eq!(ask(0), "0 HTTP/1.1 200 Connection established\r\n");
    assert_eq!(ask(2), CLOSED);
}
