//! The main loop's clients: how they wait, get their channels, and are told of.

use super::Tunnel;
use crate::local::{Acceptor, Waiting};
use crate::sys;
use crate::tunnel::carrier::Report;
use crate::tunnel::pool::{MAX_SESSIONS, SLOW_ANSWER};

/// Waiting clients looked at in one turn.
const QUEUE_PER_TURN: usize = 64;
/// More clients than this leave memory behind that is worth giving back.
const CLIENTS_WORTH_TRIMMING: usize = 16;

impl Tunnel {
    pub(super) fn accept(&mut self, listener: usize, socket: usize) {
        let room = self.max_clients.saturating_sub(self.clients());
        self.queue.extend(self.acceptor.accept(listener, socket, room, &self.epoll));
        if self.reconnect.has_given_up() && self.pool.is_empty() {
            self.close_waiting(|_, _| true);
        }
    }

    /// Gives free sessions to waiting clients, first come first served, but none
    /// to a license server that is slow to answer another.
    pub(super) fn connect_waiting(&mut self) {
        let mut passed_over = 0;
        while passed_over < self.queue.len()
            && passed_over <= QUEUE_PER_TURN
            && !self.pool.are_all_asking()
        {
            let waiting = &self.queue[passed_over];
            if waiting.client.is_broken() {
                self.queue.remove(passed_over);
                continue;
            }
            let acceptor = &self.acceptor;
            let to = acceptor.destination(waiting.listener).clone();
            let slow = self.pool.slow().any(|it| *acceptor.destination(it) == to);
            match self.pool.free().filter(|_| !slow) {
                Some(carrier) => {
                    if let Some(waiting) = self.queue.remove(passed_over) {
                        carrier.connect(waiting, to);
                    }
                }
                None => {
                    if !slow && self.pool.are_all_slow() {
                        self.want_session("a license server is slow to connect");
                    }
                    passed_over += 1;
                }
            }
        }
    }

    /// Lets every session have its turn.
    pub(super) fn carry(&mut self) {
        for number in 0..MAX_SESSIONS {
            let Some(carrier) = self.pool.get_mut(number) else {
                continue;
            };
            match carrier.turn(&self.epoll, &mut self.buffer) {
                Ok(reports) => reports.into_iter().for_each(|report| self.tell(report)),
                Err(e) => self.lose(number, &e.to_string()),
            }
        }
        self.fit_pool();
        let clients = self.clients();
        self.most_clients = self.most_clients.max(clients);
        if clients == 0 && self.most_clients > CLIENTS_WORTH_TRIMMING {
            self.most_clients = 0;
            sys::trim_memory();
        }
    }

    fn tell(&mut self, report: Report) {
        match report {
            Report::Connected(who) => self.log.detail(format_args!("client {who}: connected")),
            Report::Ended(who, Some((up, down))) => {
                self.log.detail(format_args!("client {who}: ended, {up} bytes up, {down} down"))
            }
            Report::Ended(who, None) => self.log.detail(format_args!("client {who}: ended")),
            Report::Refused(waiting, since, why) => {
                let to = self.acceptor.destination(waiting.listener).clone();
                self.log.detail(format_args!(
                    "client {}: {to} cannot be reached from the gateway: {why}",
                    waiting.who
                ));
                waiting.client.reset();
                if since.elapsed() > SLOW_ANSWER {
                    // Those behind would wait as long for the same answer.
                    self.close_waiting(|acceptor, waiting| {
                        *acceptor.destination(waiting.listener) == to && waiting.since <= since
                    });
                }
            }
        }
    }

    /// Closes the waiting clients that `which` names.
    pub(super) fn close_waiting(&mut self, which: impl Fn(&Acceptor, &Waiting) -> bool) {
        for waiting in std::mem::take(&mut self.queue) {
            if which(&self.acceptor, &waiting) {
                self.log.detail(format_args!("client {}: closed, it waited in vain", waiting.who));
                waiting.client.reset();
            } else {
                self.queue.push_back(waiting);
            }
        }
    }

    pub(super) fn clients(&self) -> usize {
        self.queue.len() + self.pool.clients()
    }
}
