//! The kernel of a CentOS 7, as far as system calls tell it: those that came later do not exist.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::{Job, job::licfwd};

const HELPER: &str = include_str!("old_kernel.py");

/// A `licfwd` in the job's directory that runs the real one there; it needs `python3`.
pub fn licfwd_there(job: &Job) -> PathBuf {
    let helper = job.directory().write("old_kernel.py", HELPER);
    let (helper, licfwd) = (helper.display(), licfwd());
    let text = format!("#!/bin/sh\nexec python3 {helper} {} \"$@\"\n", licfwd.display());
    let script = job.directory().write("licfwd", &text);
    fs::set_permissions(&script, Permissions::from_mode(0o700)).expect("chmod");
    script
}
