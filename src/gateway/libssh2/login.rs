//! Opens an authenticated session within one deadline.

use super::driver::Driver;
use super::session::Libssh2Session;
use crate::auth::libssh2_error::{KEX_FAILURE, KEY_EXCHANGE_FAILURE, TIMEOUT};
use crate::auth::{
    self, AcceptedKeys, CERTIFICATE, Credentials, KnownHosts, LoginError, Prompter, Ssh, is_asking,
};
use crate::config::{Gateway, gateway_down};
use crate::error::{Code, Context, Error};
use crate::gateway::attempt::{self, Attempt};
use crate::gateway::connect::{self, GatewaySocket};
use crate::log::Log;
use crate::retry::Limits;
use crate::sys;
use ssh2::{HashType, MethodType, Session};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// Connects, checks the host key and logs in, within limits that hold whatever the
/// other side does (see [`attempt`]). What only ssh can do is found out before anybody
/// is connected to: a gateway may lock out who connects and does not log in (sshd's
/// PerSourcePenalties).
///
/// # Errors
/// [`Code::GatewayDown`] when another try may help, [`Code::HostKey`],
/// [`Code::Refused`] and [`Code::Config`] when it will not.
pub fn open(
    gateway: &Gateway,
    credentials: &mut Credentials,
    accepted: &mut AcceptedKeys,
    prompter: Option<&mut dyn Prompter>,
    limits: Limits,
    log: &Log,
) -> std::result::Result<Libssh2Session, LoginError> {
    let failed = |why| gateway_down(gateway, why);
    attempt::run(failed, |attempt| {
        log_in(attempt, gateway, credentials, accepted, prompter, limits, log)
    })
}

fn log_in(
    attempt: &Attempt,
    gateway: &Gateway,
    credentials: &mut Credentials,
    accepted: &mut AcceptedKeys,
    prompter: Option<&mut dyn Prompter>,
    limits: Limits,
    log: &Log,
) -> std::result::Result<Libssh2Session, LoginError> {
    // Who is asked something may take longer, up to the deadline of the whole.
    let attended = prompter.is_some();
    let limit = |steps: u32| match attended {
        true => limits.deadline.left(),
        false => (limits.step * steps).min(limits.deadline.left()),
    };
    if let Some(setting) = &gateway.ssh_alone {
        return Err(LoginError::ssh_alone(gateway, setting));
    }
    let session = Session::new().map_err(internal)?;
    let mut known_hosts = known_hosts(gateway)?;
    prefer(&session, gateway, &known_hosts)?;
    attempt.step("question to the agent", limit(1));
    let cuttable = |socket: BorrowedFd<'_>| attempt.uses(socket);
    let agent = auth::open_agent(&session, &gateway.login, &cuttable, log);
    let held = agent.as_ref().ok().and_then(Option::as_ref);
    let typed = attended && !gateway.login.batch_mode;
    if let Some(key) = auth::only_ssh_shows(&gateway.login, credentials, held, typed) {
        return Err(LoginError::ssh_alone(gateway, &key));
    }
    // Each address has a limit of its own.
    attempt.step("connection", Duration::MAX);
    let mut socket = connect::connect(gateway, limits, prompter.as_deref(), log)?;
    attempt.uses(&socket.fd).context(Code::System, || "no descriptor".into())?;
    attempt.hears(socket.stderr.clone());
    attempt.step("key exchange", limit(1));
    session.set_timeout(milliseconds(limits.next_step()));
    if socket.helper.is_some() {
        // A ProxyCommand may write the key down before it connects (SSSD's does).
        await_greeting(&session, &socket, limits);
        known_hosts = self::known_hosts(gateway)?;
        prefer(&session, gateway, &known_hosts)?;
    }
    let session =
        handshake(session, gateway, &socket, limits).map_err(|e| socket.with_helper_stderr(e))?;
    let (key, _) =
        session.host_key().ok_or_else(|| Error::new(Code::Internal, "libssh2 has no host key"))?;
    let sha256 = session.host_key_hash(HashType::Sha256).unwrap_or_default();
    known_hosts.verify(key, sha256, accepted, log)?;
    log.step(format_args!(
        "gateway {}: key exchange done ({}), host key accepted",
        gateway.name,
        session.methods(MethodType::CryptCs).unwrap_or("?")
    ));
    // Each key that is tried costs the gateway's time.
    attempt.step("login", limit(3));
    session.set_timeout(milliseconds(limits.next_step()));
    auth::login(&session, gateway, credentials, agent, log, prompter)?;
    log.step(format_args!("gateway {}: logged in as {}", gateway.name, gateway.user));
    let driver =
        Driver::new(session, Arc::clone(&socket.fd), socket.stderr.clone(), limits.next_step());
    Ok(Libssh2Session::new(driver, socket.helper.take()))
}

fn milliseconds(d: Duration) -> u32 {
    u32::try_from(d.as_millis()).unwrap_or(u32::MAX)
}

fn internal(e: ssh2::Error) -> Error {
    Error::new(Code::Internal, format!("libssh2: {e}"))
}

/// What the files say now, where libssh2 can go by it.
fn known_hosts(gateway: &Gateway) -> std::result::Result<KnownHosts<'_>, LoginError> {
    let known = KnownHosts::load(gateway);
    match known.ssh_alone() {
        Some(line) => Err(LoginError::ssh_alone(gateway, &line)),
        None => Ok(known),
    }
}

/// Has the session agree on what the ssh configuration wants, in its order, as far as
/// libssh2 knows the names. Given a list of which it knows none, it would keep its own.
fn prefer(
    session: &Session,
    gateway: &Gateway,
    known_hosts: &KnownHosts<'_>,
) -> std::result::Result<(), LoginError> {
    let algorithms = &gateway.algorithms;
    session.set_compress(algorithms.compression);
    let host_keys = &gateway.host_key.algorithms;
    for (method, keyword, wanted) in [
        (MethodType::CryptCs, "Ciphers", &algorithms.ciphers),
        (MethodType::CryptSc, "Ciphers", &algorithms.ciphers),
        (MethodType::MacCs, "MACs", &algorithms.macs),
        (MethodType::MacSc, "MACs", &algorithms.macs),
        (MethodType::Kex, "KexAlgorithms", &algorithms.kex),
        (MethodType::HostKey, "HostKeyAlgorithms", host_keys),
        (MethodType::SignAlgo, "PubkeyAcceptedAlgorithms", &algorithms.public_key),
    ] {
        let supported = session.supported_algs(match method {
            MethodType::SignAlgo => MethodType::HostKey,
            _ => method,
        });
        let supported = supported.map_err(internal)?;
        let mut order = match method {
            MethodType::HostKey => known_hosts.preferred(&supported, wanted),
            _ => {
                // Of a certificate it signs with the key in it.
                let plain = wanted.iter().map(|name| name.trim_end_matches(CERTIFICATE));
                plain.filter(|name| supported.contains(name)).map(str::to_owned).collect()
            }
        };
        if order.is_empty() && !wanted.is_empty() {
            let setting = format!("{keyword} {}", wanted.join(","));
            return Err(LoginError::ssh_alone(gateway, &setting));
        }
        if let MethodType::SignAlgo = method {
            // Of other keys there is but one kind of signature.
            order.retain(|name| auth::type_for(name) == "ssh-rsa");
        }
        if !order.is_empty() {
            session.method_pref(method, &order.join(",")).map_err(internal)?;
        }
    }
    Ok(())
}

/// Waits until the gateway has greeted. It may wait for us: half of the time is left.
fn await_greeting(session: &Session, socket: &GatewaySocket, limits: Limits) {
    let half = limits.next_step() / 2;
    while !sys::poll_readable(&socket.fd, half).unwrap_or(true) {
        if !is_asking(&socket.helper_stderr()) || limits.deadline.left().is_zero() {
            return session.set_timeout(milliseconds(half));
        }
    }
}

/// Exchanges keys. Its one limit is libssh2's time-out, which is looked at only
/// while the socket has nothing to read, and which a person who is asked
/// something by the helper, such as the passphrase for a jump host, may well
/// outlast: then the same call goes on where it stopped.
fn handshake(
    mut session: Session,
    gateway: &Gateway,
    socket: &GatewaySocket,
    limits: Limits,
) -> std::result::Result<Session, LoginError> {
    session.set_tcp_stream(Arc::clone(&socket.fd));
    loop {
        match session.handshake() {
            Ok(()) => return Ok(session),
            Err(e)
                if e.code() == TIMEOUT
                    && is_asking(&socket.helper_stderr())
                    && !limits.deadline.left().is_zero() => {}
            Err(e) => return Err(why_no_keys(&e, &session, gateway, socket, limits)),
        }
    }
}

/// libssh2 has the same numbers for a gateway with nothing in common, which stays
/// so, and for a closed connection, which may pass. The socket tells them apart,
/// most of the time: one that is still open has a gateway on it that speaks.
fn why_no_keys(
    e: &ssh2::Error,
    session: &Session,
    gateway: &Gateway,
    socket: &GatewaySocket,
    limits: Limits,
) -> LoginError {
    let Gateway { name, host, port, .. } = gateway;
    let still_open = || !sys::poll_readable(&socket.fd, Duration::ZERO).unwrap_or(true);
    match e.code() {
        TIMEOUT => {
            let seconds = limits.step.as_secs();
            let what = format!("no answer to the key exchange within {seconds} s");
            gateway_down(gateway, what).into()
        }
        KEX_FAILURE | KEY_EXCHANGE_FAILURE if still_open() => LoginError::new(
            Code::Config,
            format!(
                "gateway {name} ({host} port {port}): no key exchange, host key type, cipher or MAC in common \
                 between this gateway and libssh2 ({}); check -c, -m, HostKeyAlgorithms, Ciphers, MACs and \
                 KexAlgorithms in the ssh configuration, or ask the administrator",
                e.message()
            ),
            true,
        ),
        // sshd, too, ends the connection when it finds nothing in common, and may
        // be faster; a gateway that sheds load does so before it says its name.
        code => {
            let error = gateway_down(
                gateway,
                format!(
                    "the connection was closed before the login ({}); a gateway with too many logins at once does that (sshd's MaxStartups), and one after refused logins from this node (PerSourcePenalties)",
                    e.message()
                ),
            );
            let ssh_may = code == KEX_FAILURE && session.banner().is_some();
            LoginError { ssh: if ssh_may { Ssh::MayGetIn } else { Ssh::WouldFail }, ..error.into() }
        }
    }
}
