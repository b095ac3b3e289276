//! A license server that tells a name which leads nowhere: packets to it vanish.

use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::flexnet::{FlexNet, NAME};
use super::mosek::{Clients, announce};
use super::network::{Beyond, run};
use super::{
    Gateway, Job, LIMIT, Overlay, Scratch, eventually_every, free_pair, free_port, wait_until,
};

/// The server, and a gateway from which Mosek asks it.
pub struct BlackHole {
    clients: Clients,
    gateway: Gateway,
    server: FlexNet,
    ports: (u16, u16),
    /// Names the told host.
    _files: Scratch,
    /// Forwards nothing, and says nothing.
    _beyond: Beyond,
}

impl BlackHole {
    const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 77, 10);

    /// Only where the network is our own.
    ///
    /// # Errors
    /// What is missing.
    pub fn new() -> Result<BlackHole, String> {
        Overlay::check()?;
        let clients = Clients::fetch().map_err(|e| format!("no license clients from PyPI: {e}"))?;
        let beyond = Beyond::new();
        run("ip route add 10.98.0.0/24 via 10.99.0.2");
        let files = Scratch::new();
        let mut overlay = Overlay::default();
        let hosts = format!("127.0.0.1 localhost\n10.98.0.1 {NAME}\n");
        overlay.add(files.write("hosts", &hosts), "/etc/hosts");
        let gateway = Gateway::overlaid(Scratch::new(), [Overlay::default(), overlay], &[], &[]);
        let ports = free_pair();
        let server = FlexNet::start(BlackHole::SERVER, ports);
        Ok(BlackHole { clients, gateway, server, ports, _files: files, _beyond: beyond })
    }

    /// How long a client waits with licfwd, which was given one port, until the vendor
    /// daemon hears it.
    pub fn through_licfwd(&self, options: &[&str]) -> Duration {
        let job = Job::new();
        let target = format!("MOSEKLM_LICENSE_FILE={}:{}", BlackHole::SERVER, self.ports.0);
        let (value, _) = announce(&job, &self.gateway, &[options, &["gw", &target]].concat());
        self.until_heard(&job, &value)
    }

    /// The same with `ssh -L`, which forwards both ports.
    pub fn through_ssh(&self) -> Duration {
        let (job, fixed) = (Job::new(), free_port());
        let mut ssh = job.client("ssh", &self.gateway);
        ssh.arg("-F").arg(self.gateway.config()).args(["-N", "gw"]);
        for (ours, its) in [(fixed, self.ports.0), (self.ports.1, self.ports.1)] {
            ssh.args(["-L", &format!("127.0.0.1:{ours}:{}:{its}", BlackHole::SERVER)]);
        }
        let _ssh = job.spawn(&mut ssh);
        wait_until("ssh forwards", LIMIT, || {
            TcpStream::connect(("127.0.0.1", self.ports.1)).is_ok()
        });
        self.until_heard(&job, &format!("{fixed}@localhost"))
    }

    /// From the moment at which Mosek asks for a seat at `value`.
    fn until_heard(&self, job: &Job, value: &str) -> Duration {
        let before = self.server.vendor.hellos();
        let mosek = job.spawn(&mut self.clients.asking(job, &self.gateway, value, 0));
        let heard = || self.server.vendor.hellos() > before;
        assert!(eventually_every(Duration::from_millis(1), LIMIT, heard), "{}", mosek.stdout());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time");
        // What it prints before it asks may be read here after the vendor daemon has heard it.
        wait_until("it is read when it asked", LIMIT, || mosek.stdout().contains('\n'));
        let text = mosek.stdout();
        let asked: f64 = text.lines().next().and_then(|it| it.parse().ok()).expect("a time");
        now - Duration::from_secs_f64(asked)
    }
}
