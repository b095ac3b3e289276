//! How ssh would reach the gateway: `ssh -G`, read into settings.

mod gateway;
mod keywords;
mod parse;
mod ssh_g;
mod tokens;
mod without_ssh;

pub use gateway::{
    AlgorithmSettings, Family, Gateway, LoginSettings, Proxy, Silence, Strict, Via, gateway_down,
    split_hop,
};
pub use keywords::{KEYWORDS, Side};
#[cfg(test)]
pub(crate) use parse::tests;
pub use ssh_g::{absolute, resolve};
