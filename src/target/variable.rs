//! Variables as license managers' modules set them; pure.

use super::{Parsed, Target, quoted, split_port, targets};

/// The servers that the variable `name` has now, as its software's module set it.
///
/// # Errors
/// What else the value is, and what to write instead.
pub fn of_variable(name: &str, value: &str) -> Parsed<Vec<Target>> {
    let prefix = format!("{name}=");
    let write = format!("write {prefix}licserver:27000, for example");
    if value.contains("://") {
        return Err(format!(
            "its value {} is a proxy; name the hosts to reach: write {prefix}https://token.gurobi.com, for example",
            quoted(value)
        ));
    }
    if value.contains('/') {
        return Err(format!(
            "its value {} is a file name; the servers stand on that file's SERVER lines: {write}",
            quoted(value)
        ));
    }
    if leads_here(value) {
        return Err(format!(
            "its value {} leads to this node, as an earlier licfwd has left it; load the \
             software's module again, or {write}",
            quoted(value)
        ));
    }
    targets(name, &prefix, value).map_err(|why| format!("its value {}: {why}", quoted(value)))
}

/// Whether the value of a variable names this node, as one that licfwd has set does.
pub fn leads_here(value: &str) -> bool {
    let is_here = |host: &str| host == "localhost" || host.starts_with("127.");
    if let Some(proxy) = value.strip_prefix("http://") {
        return is_here(split_port(proxy).0);
    }
    let hosts = value.split([':', ',']).filter_map(|server| Some(server.split_once('@')?.1));
    let mut hosts = hosts.map(is_here);
    hosts.next().is_some_and(|here| here || hosts.any(|here| here))
}

/// Whether the word can be a variable's name and hardly a host's.
pub fn is_variable(word: &str) -> bool {
    let inner = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    word.bytes().all(inner) && word.starts_with(|c: char| c.is_ascii_uppercase())
}
