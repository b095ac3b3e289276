//! How ssh would reach the gateway: `ssh -G`, read into settings.

mod gateway;
mod parse;
mod ssh_g;
mod tokens;
mod without_ssh;

pub use gateway::{Family, Gateway, Proxy, Silence, Strict, TcpSettings, Via, gateway_down};
#[cfg(test)]
pub(crate) use parse::tests;
pub use ssh_g::{absolute, resolve};
