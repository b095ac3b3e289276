//! Who the gateway is, and who we are: host keys, identities, the login.

mod accepted_keys;
mod agent;
mod base64;
mod host_key;
mod identities;
mod key_file;
mod known_hosts;
pub mod libssh2_error;
mod login;
mod login_error;
mod offer;
mod prompt;
mod public_key;
mod refusal;
mod terminal;

pub use accepted_keys::AcceptedKeys;
pub use agent::open_agent;
pub use host_key::KnownHosts;
pub use identities::Credentials;
pub use known_hosts::{KeyFile, read_files};
pub use login::login;
pub use login_error::{LoginError, Ssh};
pub use offer::only_ssh_shows;
pub use prompt::{Named, Prompter};
pub use public_key::{CERTIFICATE, type_for};
pub use refusal::key_advice;
pub use terminal::{NO_ANSWER, Terminal, answer_ssh, is_asking};
