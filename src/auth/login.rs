//! Proves who the user is, to a gateway that has proved who it is.

use super::agent::Agent;
use super::identities::Credentials;
use super::libssh2_error::{
    AUTHENTICATION_FAILED, PUBLICKEY_UNVERIFIED, SOCKET_DISCONNECT, SOCKET_RECV, SOCKET_SEND,
    TIMEOUT,
};
use super::login_error::LoginError;
use super::offer::{Offer, not_to_be_shown, offers};
use super::prompt::{Dialogue, Prompter};
use super::public_key;
use super::refusal::Refusal;
use crate::config::Gateway;
use crate::log::Log;
use crate::sys;
use ssh2::Session;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

type Result<T> = std::result::Result<T, LoginError>;

/// Logs in. `session` has shaken hands and is in blocking mode with a time-out;
/// without a `prompter` nobody is ever asked.
///
/// # Errors
/// [`Code::Refused`](crate::error::Code): no method worked, or the gateway closed the connection;
/// [`Code::Config`](crate::error::Code): refused, and an identity that was named is unreadable;
/// [`Code::GatewayDown`](crate::error::Code): no answer in time.
pub fn login(
    session: &Session,
    gateway: &Gateway,
    credentials: &mut Credentials,
    agent: std::result::Result<Option<Agent>, String>,
    log: &Log,
    prompter: Option<&mut dyn Prompter>,
) -> Result<()> {
    let mut login = Login {
        session,
        gateway,
        credentials,
        log,
        prompter: prompter.filter(|_| !gateway.login.batch_mode),
        offered: Vec::new(),
        asked: false,
        used: HashSet::new(),
        tried: Vec::new(),
        flaws: agent.as_ref().err().cloned().into_iter().collect(),
        agent: agent.ok().flatten(),
        accepted: Vec::new(),
        typed: false,
    };
    login.run()?;
    // Only a login that succeeded tells what the next one will need.
    login.credentials.needs_a_person = login.typed;
    Ok(())
}

/// What became of one attempt.
enum Reply {
    /// Logged in.
    In,
    /// The gateway does not want it.
    Refused,
    /// The gateway wanted it and still refused: very likely one of several
    /// steps (libssh2 hides the reply's "partial success").
    NotEnough,
    /// Nothing was sent, or nothing could be signed; why.
    Unusable(String),
    /// There was no reason to try.
    Skipped,
}

/// How trying one method ended.
enum Step {
    In,
    Refused,
    /// Accepted; the gateway wants another method as well.
    Partial,
}

/// What a person has typed is on its way.
struct Sent {
    result: std::result::Result<(), ssh2::Error>,
    asked: bool,
    gave_up: bool,
}

/// One login, from the first request to the verdict.
struct Login<'a, 'p> {
    session: &'a Session,
    gateway: &'a Gateway,
    agent: Option<Agent>,
    credentials: &'a mut Credentials,
    log: &'a Log,
    prompter: Option<&'p mut (dyn Prompter + 'p)>,
    /// The methods that the gateway offers now; until it is asked, what is hoped for.
    offered: Vec<String>,
    /// It has said so.
    asked: bool,
    /// Keys and certificates that the gateway has seen.
    used: HashSet<Vec<u8>>,
    tried: Vec<String>,
    flaws: Vec<String>,
    /// Methods that succeeded as one step of several.
    accepted: Vec<&'static str>,
    /// A password or a second factor was typed for one of them.
    typed: bool,
}

const METHODS: [&str; 3] = ["publickey", "keyboard-interactive", "password"];
/// More steps than any gateway asks for.
const MOST_STEPS: usize = 5;
/// How long a person may type, in milliseconds: sshd's LoginGraceTime is 120 s.
const TYPING_TIMEOUT_MS: u32 = 180_000;
/// How long after it has said goodbye a gateway closes the connection.
const TIME_TO_CLOSE: Duration = Duration::from_secs(1);
/// Keys that are shown before the gateway is asked what it takes.
const FEW: usize = 2;
/// How often a passphrase may be typed, as in ssh.
const PASSPHRASE_TRIES: usize = 3;

impl Login<'_, '_> {
    fn run(&mut self) -> Result<()> {
        let mut left = self.order();
        // To ask takes a round trip, and sshd 9.2 answers after 5 to 9 ms more: for
        // nothing where a key is taken. Who could type must not be left without a try.
        if self.has_few_keys_alone() {
            self.offered = vec!["publickey".to_owned()];
        } else if self.refresh_methods()? {
            return Ok(());
        }
        while let Some(at) = left.iter().position(|method| self.may_try(method)) {
            let method = left.remove(at);
            let step = match method {
                "publickey" => self.try_keys()?,
                _ => self.try_typed(method)?,
            };
            match step {
                Step::In => {
                    let with = self.tried.last().map_or("", String::as_str);
                    self.log.detail(format_args!("logged in with {with}"));
                    return Ok(());
                }
                Step::Partial if self.accepted.len() < MOST_STEPS => {
                    self.accepted.push(method);
                    // The next step may be the same method with another key.
                    left = self.order();
                }
                Step::Partial | Step::Refused => {}
            }
        }
        if !self.asked && self.ask_at_last()? {
            return Ok(());
        }
        Err(self.refusal().refused())
    }

    /// Whether keys are all that this login has, and so few that a gateway which wants
    /// something else has not had enough after them (MaxAuthTries).
    fn has_few_keys_alone(&self) -> bool {
        let enabled = self.gateway.login.pubkey && self.order().contains(&"publickey");
        let keys = self.offers_of_keys().len();
        self.prompter.is_none() && enabled && (1..=FEW).contains(&keys)
    }

    fn offers_of_keys(&self) -> Vec<Offer> {
        let held = self.agent.as_ref().map_or(&[][..], |agent| &agent.keys);
        offers(self.credentials, held, self.gateway.login.identities_only)
    }

    /// No key was taken: asks for what the gateway would have liked better. It may have
    /// had enough by now.
    fn ask_at_last(&mut self) -> Result<bool> {
        let Ok(is_in) = self.refresh_methods() else {
            return Ok(false);
        };
        if !self.offers("publickey") && self.accepted.is_empty() {
            // Then it has not looked at them.
            self.tried.clear();
        }
        Ok(is_in)
    }

    fn offers(&self, method: &str) -> bool {
        self.offered.iter().any(|offered| offered == method)
    }

    /// The methods in PreferredAuthentications' order, else in ssh's.
    fn order(&self) -> Vec<&'static str> {
        let wished = &self.gateway.login.preferred_methods;
        let mut order = METHODS.to_vec();
        if !wished.is_empty() {
            let place = |method: &str| wished.iter().position(|w| w == method);
            order.retain(|method| place(method).is_some());
            order.sort_by_key(|method| place(method));
        }
        order
    }

    fn may_try(&self, method: &str) -> bool {
        let (enabled, needs_person) = match method {
            "publickey" => (self.gateway.login.pubkey, false),
            "password" => (self.gateway.login.password, true),
            _ => (self.gateway.login.keyboard_interactive, true),
        };
        self.offers(method) && enabled && (self.prompter.is_some() || !needs_person)
    }

    /// Asks the gateway which methods it takes now; true when that already was
    /// the login.
    fn refresh_methods(&mut self) -> Result<bool> {
        // ssh2 panics where the list is no text (in this thread nobody hears of it).
        let asked = AssertUnwindSafe(|| {
            let methods = self.session.auth_methods(&self.gateway.user)?;
            let methods = methods.split(',').filter(|m| !m.is_empty());
            Ok(methods.map(str::to_owned).collect())
        });
        match catch_unwind(asked) {
            Ok(Ok(methods)) => (self.offered, self.asked) = (methods, true),
            Ok(Err(e)) => {
                if let Reply::Unusable(_) = self.reply(Err(e))? {
                    return Err(self.refusal().unreadable());
                }
            }
            Err(_) => self.flaws.push("the gateway's list of methods: not text".to_owned()),
        }
        Ok(self.session.authenticated())
    }

    /// Whether the gateway's wishes have changed. Its reply to a step that was
    /// right and not enough says so (RFC 4252, section 5.1), but libssh2 shows a
    /// refusal. Asking costs one of the gateway's MaxAuthTries.
    fn was_partial(&mut self) -> Result<bool> {
        let before = self.asked.then(|| self.offered.clone());
        self.refresh_methods()?;
        Ok(before.map_or(!self.offers("publickey"), |before| self.offered != before))
    }

    fn try_keys(&mut self) -> Result<Step> {
        for offer in self.offers_of_keys() {
            let name = offer.name(self.credentials);
            // Named before it is shown: the gateway may close the connection.
            self.tried.push(name.clone());
            let reply = self.show(offer)?;
            match reply {
                Reply::In => return Ok(Step::In),
                Reply::Refused => {}
                Reply::NotEnough => {
                    if self.was_partial()? {
                        return Ok(Step::Partial);
                    }
                    self.tried.pop();
                    self.tried.push(format!("{name} [known there, but not enough]"));
                }
                Reply::Unusable(why) => {
                    self.tried.pop();
                    self.flaws.push(format!("{name}: {why}"));
                }
                Reply::Skipped => drop(self.tried.pop()),
            }
        }
        Ok(Step::Refused)
    }

    /// Shows one key, unless the gateway has judged it in its other form (agent or
    /// file) already: each costs one of MaxAuthTries.
    fn show(&mut self, offer: Offer) -> Result<Reply> {
        let blob = offer.blob(self.credentials);
        if blob.as_ref().is_some_and(|blob| self.used.contains(blob)) {
            return Ok(Reply::Skipped);
        }
        if let Some(why) = not_to_be_shown(&self.gateway.algorithms, blob.as_deref()) {
            return Ok(Reply::Unusable(why));
        }
        let line = || blob.as_deref().map(public_key::public_line);
        let reply = match (&offer, &self.agent) {
            (Offer::Agent(key), Some(agent)) => {
                self.reply(agent.login(&self.gateway.user, &key.blob))?
            }
            (Offer::Agent(_), None) => Reply::Skipped,
            (Offer::File(at, _), _) if self.credentials.identities[*at].is_locked() => {
                self.unlock(*at, line().as_deref())?
            }
            (Offer::File(at, Some(_)), _) => self.show_file(*at, line().as_deref(), None)?,
            // libssh2 derives the public key itself, whatever the .pub file says.
            (Offer::File(at, None), _) => self.show_file(*at, None, None)?,
        };
        if !matches!(reply, Reply::Unusable(_) | Reply::Skipped) {
            self.used.extend(blob);
        }
        Ok(reply)
    }

    /// Shows an encrypted key. The passphrase is asked for only when the gateway
    /// takes the key, as ssh does it: the first call can send the public part and
    /// then fails to sign.
    fn unlock(&mut self, at: usize, line: Option<&str>) -> Result<Reply> {
        if self.prompter.is_none() {
            let way = "ssh-add it, or name a key without passphrase";
            let why = format!("encrypted, and no agent holds it: {way}");
            return Ok(Reply::Unusable(why));
        }
        if line.is_some() {
            match self.show_file(at, line, None)? {
                Reply::Unusable(_) => {}
                judged => return Ok(judged),
            }
        }
        let path = self.credentials.identities[at].path.display();
        let prompt = format!("Enter passphrase for key '{path}': ");
        for _ in 0..PASSPHRASE_TRIES {
            let asked = self.prompter.as_mut().and_then(|p| p.ask(&prompt, false));
            let Some(passphrase) = asked else {
                return Ok(Reply::Unusable("no passphrase given".into()));
            };
            match self.show_file(at, line, Some(&passphrase))? {
                Reply::Unusable(_) => {}
                judged => {
                    self.credentials.identities[at].passphrase = Some(passphrase);
                    return Ok(judged);
                }
            }
        }
        Ok(Reply::Unusable("wrong passphrase".into()))
    }

    fn show_file(&self, at: usize, line: Option<&str>, passphrase: Option<&str>) -> Result<Reply> {
        let identity = &self.credentials.identities[at];
        let Some(key) = &identity.private else {
            return Ok(Reply::Skipped);
        };
        let passphrase = passphrase.or(identity.passphrase.as_deref());
        let (session, user) = (self.session, &self.gateway.user);
        self.reply(session.userauth_pubkey_memory(user, line, &key.text, passphrase))
    }

    /// Password or keyboard-interactive: what is typed goes out once.
    fn try_typed(&mut self, method: &'static str) -> Result<Step> {
        for attempt in 0..self.gateway.login.password_prompts {
            let Some(sent) = self.send_typed(method) else {
                break;
            };
            if attempt == 0 {
                self.tried.push(method.to_owned());
            }
            match self.reply(sent.result)? {
                Reply::In => {
                    self.typed |= sent.asked;
                    return Ok(Step::In);
                }
                Reply::Unusable(why) => {
                    self.flaws.push(format!("{method}: {why}"));
                    break;
                }
                _ if sent.gave_up => break,
                _ => {}
            }
            if self.was_partial()? {
                self.typed |= sent.asked;
                return Ok(Step::Partial);
            }
            // Refused without a question: asking again would change nothing.
            if !sent.asked {
                break;
            }
        }
        Ok(Step::Refused)
    }

    /// Asks and sends; `None`: there was nothing to send.
    fn send_typed(&mut self, method: &str) -> Option<Sent> {
        let prompter = self.prompter.as_deref_mut()?;
        let (user, host) = (&self.gateway.user, &self.gateway.host);
        let mut dialogue = Dialogue::new(prompter, format!("{user}@{host}"));
        let result = if method == "password" {
            let password = dialogue.ask(&format!("{user}@{host}'s password: "), false)?;
            self.session.userauth_password(user, &password)
        } else {
            // libssh2 counts the typing into the call's time-out.
            let limit = self.session.timeout();
            let session = self.session;
            session.set_timeout(limit.saturating_add(TYPING_TIMEOUT_MS));
            let result = session.userauth_keyboard_interactive(user, &mut dialogue);
            session.set_timeout(limit);
            result
        };
        Some(Sent { result, asked: dialogue.asked, gave_up: dialogue.gave_up })
    }

    /// Sorts libssh2's verdict on an attempt. It hides a lost connection behind
    /// the codes of a refusal; only the text tells (`userauth.c`).
    fn reply(&self, result: std::result::Result<(), ssh2::Error>) -> Result<Reply> {
        let error = match result {
            _ if self.session.authenticated() => return Ok(Reply::In),
            Ok(()) => return Ok(Reply::Refused),
            Err(error) => error,
        };
        let text = error.message();
        let silent = text.starts_with("Waiting for");
        match error.code() {
            TIMEOUT => Err(self.refusal().timed_out(self.session.timeout())),
            SOCKET_SEND => Err(self.refusal().closed()),
            SOCKET_RECV | SOCKET_DISCONNECT => Err(self.ended()),
            AUTHENTICATION_FAILED | PUBLICKEY_UNVERIFIED if silent => Err(self.ended()),
            AUTHENTICATION_FAILED => Ok(Reply::Refused),
            PUBLICKEY_UNVERIFIED if text.starts_with("Invalid signature") => Ok(Reply::NotEnough),
            PUBLICKEY_UNVERIFIED => Ok(Reply::Unusable("cannot sign".into())),
            _ => Ok(Reply::Unusable(text.to_lowercase())),
        }
    }

    /// Nothing more is to be read: who ended it, the gateway or libssh2, which hides this,
    /// too: a packet longer than it reads.
    fn ended(&self) -> LoginError {
        match sys::ends_within(self.session, TIME_TO_CLOSE) {
            true => self.refusal().closed(),
            false => self.refusal().unreadable(),
        }
    }

    /// What the words of a failure are made from.
    fn refusal(&self) -> Refusal<'_> {
        Refusal {
            gateway: self.gateway,
            offered: &self.offered,
            asked: self.asked,
            tried: &self.tried,
            accepted: &self.accepted,
            flaws: (self.credentials.flaws.iter().chain(&self.flaws)).map(String::as_str).collect(),
            unreadable: self.credentials.unreadable,
            attended: self.prompter.is_some(),
            only_ssh_signs: self.credentials.on_a_device()
                || self.credentials.has_certificates()
                || self.agent.is_some(),
        }
    }
}
