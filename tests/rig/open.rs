//! What a tunnel has open: nothing may be left when its clients have gone.

use super::{Gateway, LIMIT, LicenseServer, Tunnel, eventually, process, say_skipped};

/// What is open on both sides of a session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Open {
    licfwd: usize,
    /// `None`: this user may not look into sshd.
    sshd: Option<usize>,
}

impl Open {
    /// Now.
    pub fn now(gateway: &Gateway, tunnel: &Tunnel) -> Open {
        let sessions = gateway.sessions();
        let counts = sessions.iter().map(|p| process::descriptors(p.pid));
        let sshd = counts.sum();
        if sshd == 0 {
            say_skipped("only root can see the descriptors of sshd");
        }
        Open { licfwd: tunnel.descriptors(), sshd: (sshd > 0).then_some(sshd) }
    }

    /// Waits until no more is open, and the server has no clients.
    #[track_caller]
    pub fn wait_until_back(&self, gateway: &Gateway, tunnel: &Tunnel, server: &LicenseServer) {
        let mut now = *self;
        let back = eventually(LIMIT, || {
            now = Open::now(gateway, tunnel);
            now.licfwd <= self.licfwd && now.sshd <= self.sshd && server.clients() == 0
        });
        let clients = server.clients();
        assert!(back, "{self:?} became {now:?}, {clients} at the server");
    }
}
