//! Mosek's license client, of two generations, and the Python that calls it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::flexnet::exports;
use super::pypi::python_with;
use super::{Gateway, Job, LIMIT, Outcome};

/// FlexNet 11.19.6 and 11.18.1: each with its own first words.
pub const MOSEKS: [&str; 2] = ["11.2.7", "9.3.22"];

/// Loads the library by hand, because there is no old Python for an old wheel, and asks
/// for a seat; tells when, in seconds since 1970, and how long that took.
const CHECK_OUT: &str = r#"
import ctypes, glob, sys, time
for library in sorted(glob.glob(sys.argv[1] + "/mosek/lib*.so*"), key=lambda path: "libmosek" in path):
    mosek = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
environment = ctypes.c_void_p()
assert mosek.MSK_makeenv(ctypes.byref(environment), None) == 0
start = time.time()
print(start, flush=True)
code = mosek.MSK_checkoutlicense(environment, 0)
print(code, int(1000 * (time.time() - start)))
"#;

/// The license clients of PyPI.
pub struct Clients {
    /// A Python that has them.
    pub python: PathBuf,
    /// Where Mosek's library is, as in [`MOSEKS`].
    libraries: [PathBuf; 2],
}

impl Clients {
    /// Fetches them where they are not there yet.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub fn fetch() -> Result<Clients, String> {
        let old = ["--no-deps", "--only-binary", ":all:", "--implementation", "cp"];
        let old =
            [&old[..], &["--python-version", "3.9", "--platform", "manylinux2014_x86_64"]].concat();
        let targets =
            MOSEKS.map(|version| (format!("mosek=={version}"), format!("mosek-{version}")));
        let [new, older] = targets
            .each_ref()
            .map(|(package, target)| [&old[..], &["--target", target, package]].concat());
        let others = ["gurobipy==13.0.3", "knitro==16.0.0", "coptpy==8.0.7"];
        let python = python_with("license-clients", &[&new, &older, &others])?;
        let place = python.ancestors().nth(2).expect("a directory");
        let libraries = targets.map(|(_, target)| place.join(target));
        Ok(Clients { python, libraries })
    }

    /// Mosek's library of that generation, about to ask for a seat at `value`.
    pub fn asking(&self, job: &Job, gateway: &Gateway, value: &str, generation: usize) -> Command {
        let mut client = job.client(&self.python, gateway);
        client.args(["-c", CHECK_OUT]).arg(&self.libraries[generation]);
        // It remembers where it once got something.
        let _ = fs::remove_file(job.directory().file(".flexlmrc"));
        client.env("MOSEKLM_LICENSE_FILE", value);
        client
    }

    /// It asks; returns how long that took.
    #[track_caller]
    pub fn ask(&self, job: &Job, gateway: &Gateway, value: &str, generation: usize) -> Duration {
        let outcome = job.spawn(&mut self.asking(job, gateway, value, generation)).wait(2 * LIMIT);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let last = outcome.stdout.lines().last().unwrap_or_default();
        let (_, took) = last.split_once(' ').expect("code and milliseconds");
        Duration::from_millis(took.parse().expect("milliseconds"))
    }
}

/// Calls licfwd; returns what it announces.
#[track_caller]
pub fn announce(job: &Job, gateway: &Gateway, arguments: &[&str]) -> (String, Outcome) {
    let outcome = job.run(job.licfwd(gateway).args(arguments));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let value = exports(outcome.line()).remove("MOSEKLM_LICENSE_FILE");
    (value.expect("a value"), outcome)
}
