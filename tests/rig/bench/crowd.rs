//! Many at once: clients of one tunnel, and jobs that start together.

use std::io::{self, BufReader, Error, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use super::table::{Row, Table};
use super::tunnel::{Peer, Site, end, port_of};
use crate::rig::traffic::{connect, read_line};
use crate::rig::{Gateway, LicenseServer, Scratch, Service, gateway};

/// Jobs that start together.
const JOBS: usize = 200;

/// The loop that cluster documentation gives its users.
const LOOP: &str = r#"
for ((i=0; i<10; ++i)); do
  LOCALPORT=$(shuf -i 1024-65535 -n 1)
  ssh -F "$CONFIG" "$GATEWAY" -L $LOCALPORT:127.0.0.1:$PORT -N -f >/dev/null && break
done || exit 1
echo "$LOCALPORT@localhost"
read -r _
"#;

const LICFWD: &str = r#"
eval $("$LICFWD" -F "$CONFIG" "$GATEWAY" 127.0.0.1:$PORT) || exit
echo "$MLM_LICENSE_FILE"
read -r _
"#;

/// Sends a message and waits for its echo.
pub fn ping(mut client: &TcpStream, message: &[u8]) -> io::Result<()> {
    client.write_all(message)?;
    let mut answer = vec![0; message.len()];
    client.read_exact(&mut answer)?;
    match answer == message {
        true => Ok(()),
        false => Err(Error::other("the echo is not what was said")),
    }
}

/// Connects so many clients at the same time; returns when each has got an answer.
pub fn connect_all(port: u16, clients: usize) -> io::Result<Vec<TcpStream>> {
    let one = move || {
        let client = connect(port)?;
        // In a crowd an answer may take longer than anywhere else.
        client.set_read_timeout(Some(Duration::from_secs(60)))?;
        ping(&client, b"x").map(|()| client)
    };
    let threads = (0..clients)
        .map(|_| thread::Builder::new().stack_size(64 * 1024).spawn(one))
        .collect::<io::Result<Vec<_>>>()?;
    let join = |thread: thread::JoinHandle<_>| thread.join().expect("a client's thread");
    threads.into_iter().map(join).collect()
}

/// Starts all jobs at once on a gateway that sheds logins as sshd does unless
/// told otherwise, first with licfwd and then with the loop.
pub fn start_together(licfwd: &Path, table: &mut Table) -> io::Result<()> {
    for (peer, script) in [(Peer::Licfwd, LICFWD), (Peer::Ssh, LOOP)] {
        eprintln!("{JOBS} starts together: {}", peer.name());
        let sheds = Gateway::with(&["MaxStartups 10:30:100"]);
        let site = Site::new(sheds, licfwd)?;
        let server = LicenseServer::start(Service::Echo);
        let tag = Scratch::new();
        let begin = Instant::now();
        let jobs = (0..JOBS)
            .map(|_| {
                let mut command = site.command("bash", &tag);
                command.args(["-c", script]).stdin(Stdio::piped());
                command.stderr(Stdio::null());
                command.env("CONFIG", site.gateway.config());
                command.env("GATEWAY", gateway::NAME);
                command.env("PORT", server.port().to_string());
                command.env("LICFWD", licfwd);
                let mut job = command.spawn()?;
                let stdout = job.stdout.take().ok_or_else(|| Error::other("no pipe"))?;
                let thread = thread::spawn(move || {
                    let line = read_line(&mut BufReader::new(stdout)).ok()?;
                    let client = connect(port_of(&line)?).ok()?;
                    ping(&client, b"x").ok()?;
                    Some(begin.elapsed())
                });
                Ok((job, thread))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let (jobs, threads): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
        let served: Vec<Duration> = threads
            .into_iter()
            .filter_map(|thread| thread.join().expect("a job's thread"))
            .collect();
        let took = served.iter().max().copied().unwrap_or_default();
        table.add(Row::Successes, peer, served.len() as f64);
        table.add(Row::Last, peer, took.as_secs_f64());
        end(&tag);
        for mut job in jobs {
            job.wait()?;
        }
    }
    Ok(())
}
