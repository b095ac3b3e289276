//! What was typed, and what help and manual say; pure.

mod argument;
mod command;
mod environment;
mod invocation;
mod manual;
mod options;
mod parse;
mod value_format;

pub use command::has_command;
pub use invocation::{Invocation, LogFile, Request, Shell, Watch};
pub use manual::generate;
pub use options::help;
pub use parse::{parse, shell_hint};
