//! Knows which user is at the other end of a local connection.
//!
//! Asks the kernel's socket table for exactly one socket (sock_diag(7)): some 5
//! microseconds, against milliseconds for `/proc/net/tcp` on a busy node. The
//! tables are the fallback where netlink is not to be had.

use crate::error::{Code, Context, Error, Result, cause};
use crate::sys::{self, errno};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Who may use the ports.
#[derive(Debug)]
pub struct Access {
    /// `None`: every user of this node (`--allow-any-user`).
    owner: Option<Owner>,
    /// Addresses of other nodes whose every user is welcome (`--allow`).
    allowed: Vec<IpAddr>,
}

/// The verdict on one client.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// Serve it.
    Welcome,
    /// Another user of this node, by user id.
    Stranger(u32),
    /// Another node that is not allowed.
    Outsider(IpAddr),
    /// The socket is gone, or belongs to no process any more.
    Gone,
}

/// Tells the owner's sockets from other people's.
#[derive(Debug)]
struct Owner {
    uid: u32,
    /// Whose a socket that its process has closed may seem to be, whosever it was: 0's in
    /// its last states, and before Linux 6.17 the kernel's root's, who is another in
    /// a user namespace.
    anybody: [u32; 2],
    /// The netlink socket; `None` where only the tables are left.
    diag: Option<File>,
    sequence: u32,
}

impl Access {
    /// Only the user who runs this process, and every user of `allow`'s hosts
    /// (names or addresses). This node's own addresses among them do not count:
    /// here the user is known.
    ///
    /// # Errors
    /// [`Code::System`] where users cannot be told apart: our user id is the
    /// overflow id of a user namespace (then everybody looks like us), or the
    /// kernel shows no socket table. [`Code::Usage`]: an unknown host;
    /// [`Code::GatewayDown`]: no name server tells within `limit`.
    pub fn new(any_user: bool, allow: &[String], limit: Duration) -> Result<Access> {
        let names: Vec<&str> = allow.iter().map(String::as_str).collect();
        let allowed = sys::look_up(&names, 0, limit).map_err(|e| {
            let passes = e.kind() == ErrorKind::TimedOut;
            let code = if passes { Code::GatewayDown } else { Code::Usage };
            Error::new(code, format!("--allow {}", cause(&e)))
        })?;
        let allowed = allowed.into_iter().map(|address| address.ip().to_canonical());
        let allowed = allowed.filter(|address| !is_ours(*address)).collect();
        let owner = if any_user { None } else { Some(Owner::new()?) };
        Ok(Access { owner, allowed })
    }

    /// Decides about the client at `client`, connected to our end `ours`, both
    /// as [`std::net::TcpStream`] names them.
    pub fn admit(&mut self, client: SocketAddr, ours: SocketAddr) -> Admission {
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        let ours = SocketAddr::new(ours.ip().to_canonical(), ours.port());
        if self.allowed.contains(&client.ip()) {
            return Admission::Welcome;
        }
        let local = client.ip().is_loopback() || client.ip() == ours.ip() || is_ours(client.ip());
        match &mut self.owner {
            _ if !local => Admission::Outsider(client.ip()),
            None => Admission::Welcome,
            Some(owner) => match owner.of_socket(client, ours) {
                Some(uid) if uid == owner.uid => Admission::Welcome,
                Some(uid) => Admission::Stranger(uid),
                None => Admission::Gone,
            },
        }
    }
}

/// Whether an address is one of this node's: only those can be bound.
fn is_ours(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

impl Owner {
    fn new() -> Result<Owner> {
        let uid = sys::user_id();
        let diag = sys::sock_diag().ok();
        let why = if Some(uid) == sys::overflow_user() {
            format!("this user namespace maps everybody to uid {uid}")
        } else if diag.is_none() && fs::metadata(SOCKET_TABLES[0]).is_err() {
            format!("neither netlink nor {} is here", SOCKET_TABLES[0])
        } else {
            let (anybody, sequence) = ([0, sys::kernel_root()], 0);
            return Ok(Owner { uid, anybody, diag, sequence });
        };
        let way_out = "use --allow-any-user if every user of this node may use the license";
        Err(why).advise(Code::System, || "cannot tell users apart".into(), way_out)
    }

    /// The user id of the process that holds the socket `local` connected to `remote`.
    fn of_socket(&mut self, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
        let ends = (local, remote);
        if let Some(diag) = &mut self.diag {
            self.sequence = self.sequence.wrapping_add(1);
            match ask_kernel(diag, self.sequence, ends, self.anybody) {
                Ok(answer) => return answer,
                // A seccomp filter or a missing module: from now on the tables.
                Err(_) => self.diag = None,
            }
        }
        SOCKET_TABLES
            .iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .find_map(|table| look_up(&table, ends, self.anybody))
            .flatten()
    }
}

/// Connections of this network namespace (proc_net(5)).
const SOCKET_TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// States in which a socket belongs to nobody, or is no connection (`tcp_states.h`).
const TIME_WAIT: u8 = 6;
const LISTEN: u8 = 10;

/// One exact look-up: `inet_diag_req_v2` of `linux/inet_diag.h`.
fn ask_kernel(
    diag: &mut File,
    sequence: u32,
    (local, remote): (SocketAddr, SocketAddr),
    anybody: [u32; 2],
) -> io::Result<Option<u32>> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const NLMSG_ERROR: u16 = 2;
    let family = if local.is_ipv4() { 2 } else { 10 };
    let address = |end: SocketAddr| match end.ip() {
        IpAddr::V4(v4) => [v4.octets(), [0; 4], [0; 4], [0; 4]].concat(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let mut request = Vec::with_capacity(72);
    request.extend(72u32.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend(sequence.to_ne_bytes());
    request.extend(0u32.to_ne_bytes());
    request.extend([family, 6, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(local.port().to_be_bytes());
    request.extend(remote.port().to_be_bytes());
    request.extend(address(local));
    request.extend(address(remote));
    request.extend(0u32.to_ne_bytes());
    request.extend(u64::MAX.to_ne_bytes());
    diag.write_all(&request)?;

    let mut answer = [0u8; 512];
    loop {
        let length = diag.read(&mut answer)?;
        let word = |at: usize| match answer[..length].get(at..).and_then(<[u8]>::first_chunk) {
            Some(bytes) => Ok(u32::from_ne_bytes(*bytes)),
            None => Err(io::Error::from(ErrorKind::InvalidData)),
        };
        if word(8)? != sequence {
            continue;
        }
        if (word(4)? & 0xffff) as u16 == NLMSG_ERROR {
            return match -(word(16)? as i32) {
                errno::ENOENT => Ok(None),
                other => Err(io::Error::from_raw_os_error(other)),
            };
        }
        let state = answer[17];
        let (uid, inode) = (word(80)?, word(84)?);
        // A look-up without a match falls back to a listener on the same port.
        let remote_port = u16::from_be_bytes([answer[22], answer[23]]);
        let is_it = remote_port == remote.port() && state != LISTEN && state != TIME_WAIT;
        // Inode 0: closed by its process. Then the uid is still the owner's since Linux
        // 6.17, and before that it says nothing.
        return Ok((is_it && (inode != 0 || !anybody.contains(&uid))).then_some(uid));
    }
}

/// Finds a connection in the text of `/proc/net/tcp` or `tcp6`: `None` when it
/// is not there, `Some(None)` when it belongs to no process.
fn look_up(
    table: &str,
    (local, remote): (SocketAddr, SocketAddr),
    anybody: [u32; 2],
) -> Option<Option<u32>> {
    let (local, remote) = (shown(local), shown(remote));
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, here, there, state, _, _, _, uid, _, inode, ..] = fields[..] else {
            return None;
        };
        if !local.iter().any(|end| end == here) || !remote.iter().any(|end| end == there) {
            return None;
        }
        let state = u8::from_str_radix(state, 16).ok()?;
        let uid = uid.parse().ok().filter(|uid| inode != "0" || !anybody.contains(uid));
        Some(uid.filter(|_| state != LISTEN && state != TIME_WAIT))
    })
}

/// How the tables show an address: `0100007F:1F90`, each 32-bit word in host order;
/// in tcp6 an IPv4 address is a v4-mapped one.
fn shown(address: SocketAddr) -> Vec<String> {
    let ips = match address.ip().to_canonical() {
        IpAddr::V4(v4) => vec![v4.octets().to_vec(), v4.to_ipv6_mapped().octets().to_vec()],
        IpAddr::V6(v6) => vec![v6.octets().to_vec()],
    };
    let word = |bytes: &[u8; 4]| format!("{:08X}", u32::from_ne_bytes(*bytes));
    let text = |ip: Vec<u8>| ip.as_chunks().0.iter().map(word).collect::<String>();
    let both = ips.into_iter().map(|ip| format!("{}:{:04X}", text(ip), address.port()));
    both.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn pair(host: &str) -> (TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind((host, 0)).expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (server, _) = listener.accept().expect("accept");
        (listener, client, server)
    }

    /// Netlink and tables must agree: ours while it lives, gone once closed.
    #[test]
    fn both_ways_know_our_own_socket() {
        for host in ["127.0.0.1", "::1"] {
            if TcpListener::bind((host, 0)).is_err() {
                eprintln!("SKIPPED: no {host} here");
                continue;
            }
            for tables_only in [false, true] {
                let (_listener, client, server) = pair(host);
                let (peer, ours) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
                let mut access = Access::new(false, &[], Duration::ZERO).expect("owner check");
                let owner = access.owner.as_mut().expect("an owner");
                assert!(owner.diag.is_some());
                if tables_only {
                    owner.diag = None;
                }
                assert_eq!(access.admit(peer, ours), Admission::Welcome, "{host}");
                drop(client);
                let after = access.admit(peer, ours);
                // Linux 6.17 and later still know it, but for root.
                let us = sys::user_id();
                let known = after == Admission::Welcome && ![0, sys::kernel_root()].contains(&us);
                assert!(known || after == Admission::Gone, "{host}: {after:?}");
            }
        }
    }

    /// The equality is of numbers: another owner than the socket's is refused.
    #[test]
    fn another_uid_is_a_stranger() {
        let (_listener, _client, server) = pair("127.0.0.1");
        let mut access = Access::new(false, &[], Duration::ZERO).expect("owner check");
        access.owner.as_mut().expect("an owner").uid += 1;
        assert_eq!(
            access.admit(server.peer_addr().unwrap(), server.local_addr().unwrap()),
            Admission::Stranger(sys::user_id())
        );
    }

    /// A dual-stack client on 127.0.0.1 stands in tcp6 alone, v4-mapped.
    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let table = "  sl  local_address remote_address st ...\n\
            0: 0000000000000000FFFF00000100007F:D431 0000000000000000FFFF00000100007F:1F90 01 \
            00000000:00000000 00:00000000 00000000  1000        0 4242 1 0\n";
        let local: SocketAddr = "127.0.0.1:54321".parse().unwrap();
        let remote: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        assert_eq!(look_up(table, (local, remote), [0, 0]), Some(Some(1000)));
        assert_eq!(look_up(table, (remote, local), [0, 0]), None);
    }

    /// Goal: in a user namespace, too, a socket that its process has closed is nobody's where
    /// the kernel has forgotten whose it was, which looks there like another user, or
    /// like the owner.
    #[test]
    fn a_closed_socket_whose_owner_is_forgotten_is_nobody_s() {
        let ends = ("127.0.0.1:54321".parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
        let table = |uid: u32, inode: u32| {
            format!(
                "  sl  local_address rem_address   st ...\n\
                0: 0100007F:D431 0100007F:1F90 05 00000000:00000000 00:00000000 00000000 {uid} 0 \
                {inode} 1 0\n"
            )
        };
        for anybody in [0, 65_534, 1000] {
            let known = |uid, inode| look_up(&table(uid, inode), ends, [0, anybody]);
            assert_eq!((known(0, 0), known(anybody, 0)), (Some(None), Some(None)), "{anybody}");
            assert_eq!(known(anybody, 4242), Some(Some(anybody)));
            assert_eq!(known(1001, 0), Some(Some(1001)));
        }
        // By netlink as well, in a namespace where root is somebody else.
        let program = std::env::current_exe().expect("this program");
        let name = "local::owner::tests::both_ways_know_our_own_socket";
        let mut unshare = std::process::Command::new("unshare");
        let unshare = unshare.args(["--user", "--map-user=1000", "--"]).arg(program);
        match unshare.args(["--exact", name]).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) if String::from_utf8_lossy(&output.stdout).contains("running 1 test") => {
                panic!("{}", String::from_utf8_lossy(&output.stdout))
            }
            _ => eprintln!("SKIPPED: no user namespace of one's own here"),
        }
    }
}
