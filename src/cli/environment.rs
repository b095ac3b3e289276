//! What the environment says where the command line says nothing; pure.

use super::argument::{encode, plain, shown};
use crate::error::{Code, Context, Error, Result};
use crate::target::{self, Parsed, Target};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// The value of a variable, by its name.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Names the gateways where the command line has none.
pub const GATEWAY: &str = "LICFWD_GATEWAY";

/// Names the log file where `--log` is not given.
pub const LOG: &str = "LICFWD_LOG";

/// Schedulers, and the variable in which each tells a job its id.
const JOB_IDS: [(&str, &str); 4] = [
    ("Slurm", "SLURM_JOB_ID"),
    ("PBS", "PBS_JOBID"),
    ("LSF", "LSB_JOBID"),
    ("Grid Engine", "JOB_ID"),
];

/// The value of a variable that is set, and not to nothing.
pub fn value(environment: Environment<'_>, name: &str) -> Option<String> {
    let value = environment(name).filter(|value| !value.is_empty());
    value.map(|value| encode(&value))
}

/// The scheduler whose job this is, and the job's id.
pub fn job(environment: Environment<'_>) -> Option<(&'static str, String)> {
    let id = |(scheduler, name)| Some((scheduler, value(environment, name)?));
    let (scheduler, id) = JOB_IDS.into_iter().find_map(id)?;
    plain(&id).is_ok().then_some((scheduler, id))
}

/// Whether a word that stands first is a target, or was meant to be one.
pub fn is_target(word: &str, environment: Environment<'_>) -> bool {
    (word.contains([':', '=']) && !word.contains("ssh://"))
        || target::parse_targets(word).is_ok()
        || (target::is_variable(word) && value(environment, word).is_some())
}

/// The targets behind a variable's bare name.
///
/// # Errors
/// [`Code::Usage`]: it is not set, or to no servers.
pub fn targets(name: &str, environment: Environment<'_>) -> Result<Vec<Target>> {
    let what = || format!("target {}", shown(name));
    let Some(value) = value(environment, name) else {
        let why = format!(
            "that variable is not set here; load the software's module before this line, or write \
             {name}=licserver:27000 (a license server of that name: {})",
            target::no_port("", name)
        );
        return Err(Error::new(Code::Usage, format!("{}: {why}", what())));
    };
    plain(&value).and_then(|()| target::of_variable(name, &value)).context(Code::Usage, what)
}

/// The variables that lead to this node already, as after an earlier call.
pub fn replaced(targets: &[Target], environment: Environment<'_>) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for Target { name, .. } in targets {
        let value = value(environment, name).filter(|v| target::leads_here(v));
        if let Some(value) = value.filter(|_| found.iter().all(|(known, _)| known != name)) {
            found.push((name.clone(), value));
        }
    }
    found
}

/// The log file that [`LOG`] names, where `%j` is the job's id (`nojob` outside one),
/// `%h` this `host` and `%%` a percent sign.
pub fn log(environment: Environment<'_>, host: &str) -> Result<Option<PathBuf>> {
    let Some(path) = environment(LOG).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let job = job(environment).map_or("nojob".to_owned(), |(_, id)| id);
    let what = || format!("{LOG} {}", shown(&encode(&path)));
    expand(&path, &job, host).context(Code::Usage, what).map(Some)
}

fn expand(path: &OsStr, job: &str, host: &str) -> Parsed<PathBuf> {
    let path = encode(path);
    let mut expanded = String::new();
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '%' { chars.next() } else { None }) {
            ('%', Some('j')) => expanded += &job.replace('/', "_"),
            ('%', Some('h')) => expanded += host,
            ('%', Some('%')) => expanded.push('%'),
            ('%', _) => return Err("expected %j (job), %h (host) or %% after %".to_owned()),
            (c, _) => expanded.push(c),
        }
    }
    Ok(super::argument::decode(&expanded).into())
}
