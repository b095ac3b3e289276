//! Expands the tokens of ssh_config's values, which `ssh -G` leaves raw.

use crate::error::{Code, Context, Result};
use crate::sys;
use crate::target::{Parsed, quoted};
use std::env;
use std::path::{self, PathBuf};
use std::time::Duration;

/// How long the directory of users may take to say where another one's home is.
const HOME_LIMIT: Duration = Duration::from_secs(5);

/// What a value may refer to besides the configuration itself.
pub struct Here {
    pub home: Option<PathBuf>,
    pub user: String,
    pub uid: u32,
    /// This machine.
    pub host: String,
    pub cwd: PathBuf,
    /// The hash of the connection, which only ssh can tell: what goes into it depends
    /// on its version. Empty where no value asks for it.
    pub hash: String,
    pub env: fn(&str) -> Option<String>,
}

impl Here {
    /// Home and name come from the password database, as ssh takes them, and
    /// from the environment only where it has no such user.
    pub fn find(user: Option<(PathBuf, String)>) -> Here {
        let env = |name: &str| env::var(name).ok();
        let full = |name: &str| env(name).filter(|value| !value.is_empty());
        let (home, name) = user.unzip();
        Here {
            home: home.or_else(|| full("HOME").map(PathBuf::from)),
            user: name.or_else(|| full("USER")).unwrap_or_default(),
            uid: sys::user_id(),
            host: sys::node_name(),
            cwd: env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            hash: String::new(),
            env,
        }
    }
}

/// Which tokens a file's name may have; `$` stands for `${VARIABLE}`.
const IN_PATHS: &str = "%CdhijkLlnpru$";
/// And ProxyCommand. Its variables are for the shell that runs it.
const IN_COMMANDS: &str = "%hknpr";

/// The values of ssh_config's tokens (section TOKENS of its manual page).
pub struct Tokens<'a> {
    pub here: &'a Here,
    /// The gateway's host as typed.
    pub name: &'a str,
    pub host: &'a str,
    pub port: u16,
    pub user: &'a str,
    /// HostKeyAlias, else the host as typed.
    pub alias: &'a str,
    /// The last host of ProxyJump, or empty.
    pub jump: &'a str,
}

impl Tokens<'_> {
    /// Expands `~`, `%x` and `${VAR}`, in ssh's order, and makes the path
    /// absolute, because the daemon's working directory is `/`.
    ///
    /// # Errors
    /// What ssh cannot expand, and then ends.
    pub fn path(&self, value: &str) -> Result<PathBuf> {
        let expanded = self.tilde(value).and_then(|value| self.expand(&value, IN_PATHS));
        self.or_why(value, expanded).map(|path| self.absolute(&path))
    }

    /// The same for a value whose `%x` and `${VAR}` ssh has expanded, or never expands.
    ///
    /// # Errors
    /// `~` of somebody whom nobody knows.
    pub fn plain_path(&self, value: &str) -> Result<PathBuf> {
        self.or_why(value, self.tilde(value)).map(|path| self.absolute(&path))
    }

    /// Expands `%x` in a command line.
    ///
    /// # Errors
    /// What ssh cannot expand, and then ends.
    pub fn command(&self, line: &str) -> Result<String> {
        self.or_why(line, self.expand(line, IN_COMMANDS))
    }

    fn or_why(&self, value: &str, expanded: Parsed<String>) -> Result<String> {
        expanded.context(Code::Config, || format!("gateway {}: {}", self.name, quoted(value)))
    }

    fn absolute(&self, path: &str) -> PathBuf {
        path::absolute(self.here.cwd.join(path)).unwrap_or_else(|_| path.into())
    }

    fn tilde(&self, value: &str) -> Parsed<String> {
        let Some(rest) = value.strip_prefix('~') else {
            return Ok(value.to_owned());
        };
        let (user, path) = rest.split_once('/').unwrap_or((rest, ""));
        let home = match user {
            "" => self.home(),
            user => match sys::home_of(user, HOME_LIMIT) {
                Some(home) => home.to_string_lossy().into_owned(),
                None => return Err(format!("no such user: {user}")),
            },
        };
        Ok(format!("{}/{}", home.trim_end_matches('/'), path.trim_start_matches('/')))
    }

    fn home(&self) -> String {
        let home = self.here.home.as_deref();
        home.map_or("~".into(), |home| home.to_string_lossy().into_owned())
    }

    fn expand(&self, value: &str, known: &str) -> Parsed<String> {
        let mut done = String::new();
        let mut rest = value;
        while let Some(at) = rest.find(['%', '$']) {
            done.push_str(&rest[..at]);
            rest = &rest[at..];
            let (value, length) = match rest.strip_prefix("${").filter(|_| known.contains('$')) {
                Some(body) => self.variable(body)?,
                None if rest.starts_with('%') => self.token(rest, known)?,
                None => ("$".to_owned(), 1),
            };
            done.push_str(&value);
            rest = &rest[length..];
        }
        Ok(done + rest)
    }

    /// The value of the variable that `body` begins with, and the length of `${VARIABLE}`.
    fn variable(&self, body: &str) -> Parsed<(String, usize)> {
        let (name, _) = body.split_once('}').ok_or("${ without }")?;
        let value = (self.here.env)(name).ok_or_else(|| format!("${{{name}}} is not set"))?;
        Ok((value, name.len() + 3))
    }

    /// The value of the token that `text` begins with, and its length.
    fn token(&self, text: &str, known: &str) -> Parsed<(String, usize)> {
        let here = self.here;
        let letter = text.chars().nth(1).ok_or("% at its end (write %%)")?;
        let value = match letter {
            _ if !known.contains(letter) => {
                return Err(format!("ssh knows no token %{letter} there"));
            }
            'C' => here.hash.clone(),
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
            _ => letter.to_string(),
        };
        Ok((value, 2))
    }
}
