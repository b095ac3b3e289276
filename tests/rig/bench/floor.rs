//! The least a start can cost: a client on libssh2 that reads no configuration, binds no
//! port, and asks one license server one question.

use std::ffi::c_int;
use std::io::{self, Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::tunnel::Site;

/// The way, as a program of its own: gateway's port, user, key, license server's port.
pub fn ask([gateway, user, key, server]: [&str; 4]) -> io::Result<()> {
    let port = |text: &str| text.parse().map_err(|_| Error::other(format!("no port: {text}")));
    let socket = TcpStream::connect(("127.0.0.1", port(gateway)?))?;
    socket.set_nodelay(true)?;
    let mut session = ssh2::Session::new()?;
    session.set_tcp_stream(socket.try_clone()?);
    session.handshake()?;
    session.userauth_pubkey_file(user, None, Path::new(key), None)?;
    session.set_blocking(false);
    let server = port(server)?;
    let open = || session.channel_direct_tcpip("127.0.0.1", server, None).map_err(Error::from);
    let mut channel = until_ready(&socket, open)?;
    until_ready(&socket, || channel.write_all(b"x"))?;
    until_ready(&socket, || channel.read_exact(&mut [0]))?;
    println!("answered");
    Ok(())
}

/// Repeats a call until it has what it wants.
fn until_ready<T>(socket: &TcpStream, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                acknowledge(socket);
                std::thread::sleep(Duration::from_micros(50));
            }
            result => return result,
        }
    }
}

/// At once, what has arrived: else sshd's small packets wait for the kernel, which puts
/// that off for 40 ms (TCP_QUICKACK of tcp(7)).
#[allow(unsafe_code)]
fn acknowledge(socket: &TcpStream) {
    const IPPROTO_TCP: c_int = 6;
    const TCP_QUICKACK: c_int = 12;
    unsafe extern "C" {
        fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_int, len: u32)
        -> c_int;
    }
    // SAFETY: the kernel reads four bytes of the value.
    unsafe { setsockopt(socket.as_raw_fd(), IPPROTO_TCP, TCP_QUICKACK, &1, 4) };
}

/// From the start of that program until it has got the answer.
pub fn measure(site: &Site, server: u16) -> io::Result<Duration> {
    let begin = Instant::now();
    let mut child = Command::new(std::env::current_exe()?)
        .args(["floor", &site.gateway.port().to_string(), site.gateway.user()])
        .arg(site.gateway.identity())
        .arg(server.to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut answer = String::new();
    if let Some(stdout) = &mut child.stdout {
        stdout.read_to_string(&mut answer)?;
    }
    let took = begin.elapsed();
    match (child.wait()?.success(), &*answer) {
        (true, "answered\n") => Ok(took),
        _ => Err(Error::other(format!("the client that does nothing else: {answer:?}"))),
    }
}
