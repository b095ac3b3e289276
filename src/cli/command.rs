//! Where licfwd's words end and a command's begin; pure.

use super::argument::encode;
use super::environment::{Environment, GATEWAY, is_target};
use super::options::{self, dashed};
use crate::error::{Code, Error, Result};
use getopts::{Fail, Matches, Options};
use std::ffi::OsString;

/// Whether they hold a command; also where they do not parse.
pub fn has_command(args: &[OsString], environment: Environment<'_>) -> bool {
    split(args, environment).1.is_some()
}

/// The words that are licfwd's, encoded, and those of the command, if there is one: it
/// stands behind the first `--` after a target or, with -L alone, after the gateway. One
/// that comes before ends the options, as with ssh.
pub fn split<'a>(
    args: &'a [OsString],
    environment: Environment<'_>,
) -> (Vec<String>, Option<&'a [OsString]>) {
    let mut words: Vec<String> = args.iter().map(|arg| encode(arg)).collect();
    let parser = options::parser();
    let begins_command = |at: &usize| {
        parse_known(&parser, &words[..*at]).is_some_and(|before| match before.free.len() {
            0 => before.opt_present("L") && environment(GATEWAY).is_some(),
            1 => before.opt_present("L") || is_target(&before.free[0], environment),
            operands => operands > 1,
        })
    };
    let mut dashes = (0..words.len()).filter(|at| words[*at] == "--");
    match dashes.find(begins_command) {
        Some(at) => {
            words.truncate(at);
            (words, Some(&args[at + 1..]))
        }
        None => (words, None),
    }
}

/// What the words mean without those options that do not exist; `None`: the last one
/// lacks its value.
fn parse_known(parser: &Options, words: &[String]) -> Option<Matches> {
    let mut words = words.to_vec();
    loop {
        match parser.parse(&words) {
            Err(Fail::UnrecognizedOption(name)) => {
                let is_it = |word: &String| word.starts_with('-') && word.contains(&name);
                words.remove(words.iter().position(is_it)?);
            }
            result => return result.ok(),
        }
    }
}

/// The command, together with which some options would mean nothing.
///
/// # Errors
/// [`Code::Usage`]: which of them, or that there is no command.
pub fn check(words: &[OsString], options: &Matches) -> Result<Vec<OsString>> {
    if words.is_empty() {
        return Err(Error::new(Code::Usage, "expected a command after --, or nothing"));
    }
    for (key, why) in [
        ("shell", "no shell evaluates anything where a command stands after --"),
        ("f", "the command runs in the foreground, the tunnel in the background"),
        ("foreground", "the command runs in the foreground, the tunnel in the background"),
        ("watch", "the tunnel lives as long as the command after --"),
        ("no-watch", "the tunnel lives as long as the command after --"),
    ] {
        if options.opt_present(key) {
            let message = format!("{}: {why}; leave it out", dashed(key));
            return Err(Error::new(Code::Usage, message));
        }
    }
    Ok(words.to_vec())
}
