//! Who the gateway is, and who we are: host keys, identities, the login.

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

pub use host_key::KnownHosts;
pub use identities::Credentials;
pub use login::login;
pub use login_error::LoginError;
pub use prompt::Prompter;
pub use terminal::{NO_ANSWER, Terminal, answer_ssh, is_asking};
