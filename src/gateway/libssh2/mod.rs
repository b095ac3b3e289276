//! The gateway through libssh2, in this process.
//!
//! What libssh2 (1.11, as ssh2 0.9 carries it) really does, and what follows:
//!
//! - **One lock per session**: a blocking read on one channel stops all others.
//!   Hence one thread, a session that does not block, and poll.
//! - **One packet in flight per session.** A call that answers EAGAIN with
//!   `block_directions()` outbound has left half a packet in the session, and only
//!   that same call with the same arguments finishes it: write, `send_eof`, close,
//!   open, keepalive, and the window adjustment inside *read*. Until then all
//!   others answer EAGAIN; a loop that calls them in turn, or lets the owner of
//!   the packet go away, stops for ever. Hence [`driver`] finishes each packet on
//!   the spot, also that of a client that has vanished, and reads meanwhile: all
//!   channels share one TCP connection, so nobody loses anything by it. ssh2's
//!   `read` answers 0 at the end of file before the window adjustment is done.
//! - **Lost wake-ups.** Reading channel A drains the socket and queues channel B's
//!   packets inside libssh2, of which no poll tells; with a hundred clients B's
//!   data sits there for ever. Hence everybody is asked before the sleep whether
//!   `read_window().available > 0 || eof()`, which reads no socket and so is exact.
//! - **One channel open in flight per session**, and it cannot be cancelled: clients
//!   queue. A license server that swallows packets holds the open for the gateway's
//!   connect time-out, two minutes: another server's clients get a further session.
//! - Dropping a `Channel` ignores EAGAIN: `close` is driven to its end first, or the
//!   channel leaks. A session is freed only after a goodbye to every channel.
//! - `set_keepalive(true, _)` leaves each reply in the packet list for ever, and every
//!   read walks that list. Hence questions that libssh2 forgets: see [`session`].
//! - The order of host key algorithms is its own: those of known_hosts have to be
//!   asked for, or a known gateway looks unknown. Its `known_hosts` knows neither
//!   wildcards nor markers, and one bad line fails a whole file: ours does it.
//! - No hostbased login without root (there is no ssh-keysign hook), no GSSAPI, no
//!   certificate whose key only the agent holds, no RSA certificate in an agent.
//! - It runs over any socket: one end of a pair whose other end is a program's stdin
//!   and stdout is a ProxyCommand, and `ssh -W host:port jump` a ProxyJump.
//! - Its time-out is looked at only when the socket has nothing to read, holds for
//!   each call and not for a login of many, and its agent client has none at all.
//! - Given a list of algorithms of which it knows no name, it keeps its defaults.
//! - Key re-exchange asked for by the server (`RekeyLimit`) works, both ways.
//! - It can crash on what a gateway sends: asked for new keys, with a part of another
//!   packet behind the question, it takes a null pointer for that
//!   (`transport_fullpacket` of libssh2-sys 0.3.4). Before the announcement that is 75;
//!   a tunnel begins anew, see `tunnel/restart`.
//! - CPU seconds per GB with AES-NI: chacha20-poly1305 3.2-3.7, aes128-gcm 3.0-4.7
//!   by OpenSSL's version, aes-ctr 3.4-4.0, where ssh takes 0.9-2.0.

mod channel;
mod driver;
mod login;
mod session;

pub use login::open;
