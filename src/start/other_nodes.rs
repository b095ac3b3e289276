//! Says which node alone can use the tunnel, where a job may expect more.

use crate::cli::Invocation;
use crate::error::cause;
use crate::log::Log;
use crate::sys;
use std::env;
use std::io::ErrorKind;
use std::path::Path;

/// One note where programs on other nodes could expect to use the tunnel.
pub fn tell(invocation: &Invocation, log: &Log) {
    let unasked = invocation.listen.is_none() && !invocation.targets.is_empty();
    // As in the shell that salloc opens on a login node.
    let outside = !variable("SLURM_JOB_ID").is_empty() && variable("SLURMD_NODENAME").is_empty();
    if unasked && (outside || has_other_nodes(log)) {
        log.note(format_args!(
            "only programs on this node, {}, can use the tunnel; --listen and --allow serve the other nodes of a job",
            sys::node_name()
        ));
    }
}

/// What Slurm, PBS and LSF tell of the job's nodes; the last two name a node once
/// for each of its processors.
fn has_other_nodes(log: &Log) -> bool {
    let slurm_nodes = variable("SLURM_JOB_NUM_NODES").parse().unwrap_or(1);
    let pbs_file = variable("PBS_NODEFILE");
    let pbs_nodes = sys::read_file(Path::new(&pbs_file)).unwrap_or_else(|e| {
        if e.kind() != ErrorKind::NotFound {
            let what = format_args!("PBS_NODEFILE: cannot read {pbs_file}: {}", cause(&e));
            log.note(format_args!("{what}; --listen and --allow serve the other nodes of a job"));
        }
        Vec::new()
    });
    slurm_nodes > 1u32
        || are_several(String::from_utf8_lossy(&pbs_nodes).lines())
        || are_several(variable("LSB_HOSTS").split_whitespace())
}

fn are_several<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    let first = names.next();
    names.any(|name| Some(name) != first)
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}
