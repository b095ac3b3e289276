//! The rig as a program: a throw-away gateway and license server for shell scripts.

use std::io::{self, Read, Write};
use std::path::Path;

mod bench;
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "mod.rs"]
mod rig;

use rig::traffic::check_out;
use rig::{Gateway, LicenseServer, Service};

const USAGE: &str = "\
usage: rig gateway                     print name=value lines, serve until stdin closes
       rig checkout PORT@HOST FEATURE  check a feature out and give it back
       rig bench [--quick] LICFWD      compare that licfwd with ssh, autossh and dbclient";

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["gateway"] => serve(),
        ["checkout", server, feature] => check(server, feature),
        ["floor", gateway, user, key, server] => bench::floor::ask([gateway, user, key, server]),
        ["lines"] => {
            bench::lines::measure();
            Ok(())
        }
        ["bench", licfwd] => bench::run(Path::new(licfwd), false),
        ["bench", "--quick", licfwd] => bench::run(Path::new(licfwd), true),
        _ => Err(io::Error::other(USAGE)),
    }
}

fn serve() -> io::Result<()> {
    let license_server = LicenseServer::start(Service::CheckOut);
    let gateway = Gateway::start();
    let mut stdout = io::stdout();
    writeln!(stdout, "SSH_CONFIG={}", gateway.config().display())?;
    writeln!(stdout, "GATEWAY={}", rig::gateway::NAME)?;
    writeln!(stdout, "LICENSE_PORT={}", license_server.port())?;
    let log = license_server.log_file();
    writeln!(stdout, "LICENSE_LOG={}", log.display())?;
    stdout.flush()?;
    io::stdin().read_to_end(&mut Vec::new()).map(|_| ())
}

/// What licensed software does with the variable that licfwd exports.
fn check(server: &str, feature: &str) -> io::Result<()> {
    let port = server.split_once('@').and_then(|(port, _)| port.parse().ok());
    let port = port.ok_or_else(|| io::Error::other(format!("not PORT@HOST: {server:?}")))?;
    let seat = check_out(port, feature)?;
    println!("checked out {feature}: seat {}", seat.number);
    Ok(())
}
