//! Opens an authenticated session within one deadline.

use super::session::Connection;
use crate::auth::{self, Credentials, KnownHosts, Prompter, is_asking};
use crate::config::{Gateway, gateway_down};
use crate::error::{Code, Error, Result};
use crate::gateway::connect::{self, Wire};
use crate::log::Log;
use crate::retry::Limits;
use crate::sys;
use ssh2::{ErrorCode, HashType, MethodType, Session};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Connects, checks the host key and logs in.
///
/// # Errors
/// [`Code::GatewayDown`] when another try may help, [`Code::HostKey`],
/// [`Code::Refused`] and [`Code::Config`] when it will not.
pub fn open(
    gateway: &Gateway,
    credentials: &mut Credentials,
    prompter: Option<&mut dyn Prompter>,
    limits: Limits,
    log: &Log,
) -> Result<Connection> {
    let mut wire = connect::connect(gateway, limits, prompter.as_deref(), log)?;
    let known_hosts = KnownHosts::load(gateway);
    let session =
        handshake(gateway, &known_hosts, &wire, limits).map_err(|e| wire.with_helpers_words(e))?;
    let (key, _) = session
        .host_key()
        .ok_or_else(|| Error::new(Code::Internal, "libssh2 has no host key"))?;
    let sha256 = session.host_key_hash(HashType::Sha256).unwrap_or_default();
    known_hosts.verify(key, sha256, log)?;
    log.step(format_args!(
        "gateway {}: key exchange done ({}), host key accepted",
        gateway.name,
        session.methods(MethodType::CryptCs).unwrap_or("?")
    ));
    session.set_timeout(milliseconds(limits.next_step()));
    auth::login(&session, gateway, credentials, log, prompter)?;
    log.step(format_args!(
        "gateway {}: logged in as {}",
        gateway.name, gateway.user
    ));
    Ok(Connection {
        session,
        socket: Arc::clone(&wire.socket),
        helper: wire.helper.take(),
    })
}

fn milliseconds(d: Duration) -> u32 {
    u32::try_from(d.as_millis()).unwrap_or(u32::MAX)
}

fn handshake(
    gateway: &Gateway,
    known_hosts: &KnownHosts<'_>,
    wire: &Wire,
    limits: Limits,
) -> Result<Session> {
    let socket = &wire.socket;
    let internal = |e: ssh2::Error| Error::new(Code::Internal, format!("libssh2: {e}"));
    let mut session = Session::new().map_err(internal)?;
    session.set_compress(gateway.algorithms.compression);
    prefer(&session, MethodType::CryptCs, &gateway.algorithms.ciphers);
    prefer(&session, MethodType::CryptSc, &gateway.algorithms.ciphers);
    prefer(&session, MethodType::MacCs, &gateway.algorithms.macs);
    prefer(&session, MethodType::MacSc, &gateway.algorithms.macs);
    prefer(&session, MethodType::Kex, &gateway.algorithms.kex);
    let supported = session
        .supported_algs(MethodType::HostKey)
        .map_err(internal)?;
    let preferred = known_hosts.preferred(&supported, &gateway.host_key.algorithms);
    if !preferred.is_empty() {
        let _ = session.method_pref(MethodType::HostKey, &preferred.join(","));
    }
    session.set_tcp_stream(Arc::clone(socket));
    session.set_timeout(milliseconds(limits.next_step()));
    let late = ErrorCode::Session(-9);
    let mut shaken = session.handshake();
    // Who is asked something on the way may take longer.
    while shaken.as_ref().is_err_and(|e| e.code() == late)
        && is_asking(&wire.helpers_words())
        && !limits.deadline.left().is_zero()
    {
        shaken = session.handshake();
    }
    shaken.map_err(|e| match e.code() {
        code if code == late => gateway_down(
            gateway,
            format!("no answer to the key exchange within {} s", limits.step.as_secs()),
        ),
        // LIBSSH2_ERROR_KEX_FAILURE and KEY_EXCHANGE_FAILURE stand for a closed
        // connection as well; one that is still open has a gateway on it that
        // speaks, but nothing in common with us.
        ErrorCode::Session(-5 | -8) if still_open(socket) => Error::new(
            Code::Config,
            format!(
                "gateway {} ({} port {}): no key exchange, host key type, cipher or MAC in common \
                 between this gateway and libssh2 ({}); check -c, -m, HostKeyAlgorithms, Ciphers, MACs and \
                 KexAlgorithms in the ssh configuration, or ask the administrator",
                gateway.name,
                gateway.host,
                gateway.port,
                e.message()
            ),
        )
        .if_not_for_ssh(true),
        // sshd, too, ends the connection when it finds nothing in common, and may
        // be faster; a gateway that sheds load does so before it says its name.
        code => gateway_down(
            gateway,
            format!(
                "the connection was closed before the login ({}); a gateway with too many logins at once does that (sshd's MaxStartups)",
                e.message()
            ),
        )
        .if_not_for_ssh(code == ErrorCode::Session(-5) && session.banner().is_some()),
    })?;
    Ok(session)
}

fn still_open(socket: &OwnedFd) -> bool {
    !sys::poll_readable(socket, Duration::ZERO).unwrap_or(true)
}

/// Restricts and orders a method as the ssh configuration does, as far as
/// libssh2 knows its names; an order it knows nothing of is left alone.
fn prefer(session: &Session, kind: MethodType, wanted: &[String]) {
    let Ok(supported) = session.supported_algs(kind) else {
        return;
    };
    let common: Vec<&str> = wanted
        .iter()
        .map(String::as_str)
        .filter(|name| supported.contains(name))
        .collect();
    if !common.is_empty() {
        let _ = session.method_pref(kind, &common.join(","));
    }
}
