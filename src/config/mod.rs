//! How ssh would reach the gateway: `ssh -G`, read into settings.

mod gateway;
mod ssh_g;
mod tokens;

#[cfg(test)]
pub(crate) use gateway::tests;
pub use gateway::{Family, Gateway, Silence, Strict, Via, gateway_down, resolve};
pub use ssh_g::absolute;
