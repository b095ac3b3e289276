//! Expands the tokens of ssh_config's values, which `ssh -G` leaves raw.

use crate::sys;
use std::env;
use std::path::{self, PathBuf};

/// What a value may refer to besides the configuration itself.
pub struct Here {
    pub home: Option<PathBuf>,
    pub user: String,
    pub uid: u32,
    /// This machine.
    pub host: String,
    pub cwd: PathBuf,
    /// The environment; a variable that is empty counts as unset.
    pub env: fn(&str) -> Option<String>,
}

impl Here {
    /// Home and name come from the password database, as ssh takes them, and
    /// from the environment only where it has no such user.
    pub fn find(user: Option<(PathBuf, String)>) -> Here {
        let env = |name: &str| env::var(name).ok().filter(|v| !v.is_empty());
        let (home, name) = user.unzip();
        Here {
            home: home.or_else(|| env("HOME").map(PathBuf::from)),
            user: name.or_else(|| env("USER")).unwrap_or_default(),
            uid: sys::user_id(),
            host: sys::node_name(),
            cwd: env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            env,
        }
    }
}

/// Which tokens a file's name may have; `$` stands for `${VARIABLE}`.
const IN_PATHS: &str = "%dhijkLlnpru$";
/// And ProxyCommand. Its variables are for the shell that runs it.
const IN_COMMANDS: &str = "%hknpr";

/// The values of ssh_config's tokens (section TOKENS of its manual page).
pub struct Tokens<'a> {
    pub here: &'a Here,
    /// The gateway as typed, without `user@`.
    pub name: &'a str,
    pub host: &'a str,
    pub port: u16,
    pub user: &'a str,
    /// HostKeyAlias, else HostName.
    pub alias: &'a str,
    /// ProxyJump, or empty.
    pub jump: &'a str,
}

impl Tokens<'_> {
    /// Expands `~`, `%x` and `${VAR}`, in ssh's order, and makes the path
    /// absolute, because the daemon's working directory is `/`.
    pub fn path(&self, value: &str) -> PathBuf {
        let value = match value.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => self.home() + rest,
            _ => value.to_owned(),
        };
        let expanded = PathBuf::from(self.expand(&value, IN_PATHS));
        path::absolute(self.here.cwd.join(&expanded)).unwrap_or(expanded)
    }

    /// Expands `%x` in a command line.
    pub fn command(&self, line: &str) -> String {
        self.expand(line, IN_COMMANDS)
    }

    fn home(&self) -> String {
        let home = self.here.home.as_deref();
        home.map_or("~".into(), |home| home.to_string_lossy().into_owned())
    }

    /// What is no token of those `known` stays as it stands.
    fn expand(&self, value: &str, known: &str) -> String {
        let mut done = String::new();
        let mut rest = value;
        while let Some(at) = rest.find(['%', '$']) {
            done.push_str(&rest[..at]);
            rest = &rest[at..];
            let token = self.token(rest, known);
            let (value, length) = token.unwrap_or_else(|| (rest[..1].to_owned(), 1));
            done.push_str(&value);
            rest = &rest[length..];
        }
        done + rest
    }

    /// The value of the token that `text` begins with, and the token's length.
    fn token(&self, text: &str, known: &str) -> Option<(String, usize)> {
        if let Some(body) = text.strip_prefix("${") {
            let (variable, _) = body.split_once('}').filter(|_| known.contains('$'))?;
            return Some(((self.here.env)(variable)?, variable.len() + 3));
        }
        let here = self.here;
        let letter = text.strip_prefix('%')?.chars().next()?;
        let value = match letter {
            _ if !known.contains(letter) => return None,
            '%' => "%".to_owned(),
            'd' => self.home(),
            'h' => self.host.to_owned(),
            'i' => here.uid.to_string(),
            'j' => self.jump.to_owned(),
            'k' => self.alias.to_owned(),
            'L' => here.host.split('.').next().unwrap_or_default().to_owned(),
            'l' => here.host.clone(),
            'n' => self.name.to_owned(),
            'p' => self.port.to_string(),
            'r' => self.user.to_owned(),
            'u' => here.user.clone(),
            _ => return None,
        };
        Some((value, 2))
    }
}
