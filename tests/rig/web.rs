//! What licenses on the web need: a server that speaks TLS, the names by which a gateway
//! alone knows it, and clients that ask a proxy.

use std::fs::{self, Permissions};
use std::io::{self, Error, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::traffic::{connect, uninterrupted};
use super::{Gateway, Job, LIMIT, Overlay, Running, Scratch, free_port, process, wait_until};

/// What the server is called.
pub const NAME: &str = "token.gurobi.com";
/// A name of the same address that no target has.
pub const OTHER: &str = "other.example.org";
/// A name of an address where nothing listens.
pub const DEAD: &str = "dead.example.org";

/// A stand-in web server on loopback; root's is at port 443.
pub struct WebServer {
    address: Ipv4Addr,
    port: u16,
    running: Running,
    files: Scratch,
}

impl WebServer {
    /// Starts it in `job`.
    pub fn start(job: &Job) -> WebServer {
        let files = Scratch::new();
        let name = |name: &str| files.file(name).display().to_string();
        let mut openssl = job.command("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]);
        openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        openssl.args(["-subj", &format!("/CN={NAME}")]);
        openssl.args(["-addext", &format!("subjectAltName=DNS:{NAME},DNS:{OTHER}")]);
        openssl.args(["-keyout", &name("key"), "-out", &name("certificate")]);
        let made = job.run(&mut openssl);
        assert_eq!(made.code, 0, "{made:?}");
        let both = files.write("both", &(files.read("certificate") + &files.read("key")));
        let address = Ipv4Addr::new(127, 0, rand::random_range(1..=255), 10);
        let port = if process::is_root() { 443 } else { free_port() };
        let mut python = job.command("python3");
        python.args(["-c", include_str!("tls_server.py"), &address.to_string()]);
        let running = job.spawn(python.arg(port.to_string()).arg(both));
        wait_until("the web server", LIMIT, || running.stdout().contains("ready"));
        WebServer { address, port, running, files }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate by which it is known.
    pub fn certificate(&self) -> PathBuf {
        self.files.file("certificate")
    }

    /// The names that clients have asked for in TLS, and their requests.
    pub fn heard(&self) -> Vec<String> {
        self.running.stdout().lines().skip(1).map(str::to_owned).collect()
    }

    /// A gateway that alone knows the names, with lines of `sshd_config`.
    ///
    /// # Errors
    /// Why this machine cannot have one.
    pub fn gateway(&self, lines: &[&str]) -> Result<Gateway, String> {
        Overlay::check()?;
        let files = Scratch::new();
        let [a, b, c, d] = self.address.octets();
        let dead = Ipv4Addr::new(a, b, c, d + 1);
        let hosts =
            format!("127.0.0.1 localhost\n{} {NAME} {OTHER}\n{dead} {DEAD}\n", self.address);
        let hosts = files.write("hosts", &hosts);
        fs::set_permissions(&hosts, Permissions::from_mode(0o644)).expect("chmod");
        let mut overlay = Overlay::default();
        overlay.add(hosts, "/etc/hosts");
        Ok(Gateway::overlaid(files, [overlay, Overlay::default()], lines, &[]))
    }
}

/// A client's request for a stream, as most write it.
pub fn head(to: &str) -> String {
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nProxy-Connection: Keep-Alive\r\n\r\n")
}

/// Reads the head of an answer, and not a byte more.
pub fn read_head(from: &mut impl Read) -> io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match uninterrupted(|| from.read(&mut byte))? {
            0 => return Err(Error::other(format!("closed after {:?}", show(&head)))),
            _ => head.push(byte[0]),
        }
    }
    Ok(show(&head))
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A stream through the proxy.
pub fn connect_through(proxy: u16, to: &str) -> io::Result<TcpStream> {
    let mut connection = connect(proxy)?;
    connection.write_all(head(to).as_bytes())?;
    let answer = read_head(&mut connection)?;
    match answer.starts_with("HTTP/1.1 200 ") {
        true => Ok(connection),
        false => Err(Error::other(answer)),
    }
}
