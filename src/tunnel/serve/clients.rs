//! The main loop's clients: how they wait, get their channels, and are told of.

use super::{NO_GATEWAY, Tunnel};
use crate::gateway::CarriedBy;
use crate::local::Waiting;
use crate::sys;
use crate::target::Destination;
use crate::tunnel::carrier::Report;
use crate::tunnel::connect_head::Status;
use crate::tunnel::first_answer::Heard;
use crate::tunnel::pool::{MAX_SESSIONS, SLOW_ANSWER};
use std::io;

/// Waiting clients looked at in one turn.
const QUEUE_PER_TURN: usize = 64;
/// More clients than this leave memory behind that is worth giving back.
const CLIENTS_WORTH_TRIMMING: usize = 16;

impl Tunnel {
    pub(super) fn accept(&mut self, listener: usize, socket: usize) {
        let room = self.max_clients.saturating_sub(self.clients());
        for waiting in self.acceptor.accept(listener, socket, room, &self.epoll) {
            match waiting.client.to {
                Destination::Web(_) => self.proxy.greet(waiting.client, &self.epoll),
                _ => self.enqueue(waiting),
            }
        }
    }

    /// From now on it waits for a channel.
    pub(super) fn enqueue(&mut self, waiting: Waiting) {
        self.queue.push_back(waiting);
        if self.reconnect.has_given_up() && self.pool.is_empty() {
            self.close_waiting(NO_GATEWAY, |_| true);
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
            let slow = self.pool.slow().any(|it| *it == waiting.client.to);
            match self.pool.free().filter(|_| !slow) {
                Some(carrier) => {
                    if let Some(waiting) = self.queue.remove(passed_over) {
                        let plan = match waiting.client.asked {
                            // It is told first whether the stream is open.
                            Some(_) => (false, CarriedBy::Us),
                            None => self.vendor_ports.plan(waiting.client.listener),
                        };
                        carrier.connect(waiting, plan);
                        let number = carrier.number;
                        if carrier.session.answers_at_once() {
                            self.take_answer(number);
                        }
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

    /// The answer is there with the question: then the next client need not wait for
    /// another turn.
    fn take_answer(&mut self, number: usize) {
        let Some(carrier) = self.pool.get_mut(number) else {
            return;
        };
        let mut reports = Vec::new();
        match carrier.take_answer(&self.epoll, &mut self.buffer, &mut reports) {
            Ok(_) => reports.into_iter().for_each(|report| self.tell(number, report)),
            Err(e) => self.lose(number, &e.to_string()),
        }
    }

    /// Lets every session have its turn.
    pub(super) fn carry(&mut self) {
        for number in 0..MAX_SESSIONS {
            let Some(carrier) = self.pool.get_mut(number) else {
                continue;
            };
            match carrier.turn(&self.epoll, &mut self.buffer) {
                Ok(reports) => {
                    reports.into_iter().for_each(|report| self.tell(number, report));
                }
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

    /// What has become of a client of that session.
    fn tell(&mut self, number: usize, report: Report) {
        match report {
            Report::Connected(who) => self.log.detail(format_args!("client {who}: connected")),
            Report::Ended(who, Some((up, down))) => {
                self.log.detail(format_args!("client {who}: ended, {up} bytes up, {down} down"))
            }
            Report::Ended(who, None) => self.log.detail(format_args!("client {who}: ended")),
            Report::Refused(waiting, since, why) => {
                let (who, to) = (&waiting.client.who, waiting.client.to.clone());
                self.log.detail(format_args!(
                    "client {who}: {to} cannot be reached from the gateway: {why}"
                ));
                if let Some(told) = self.vendor_ports.second_way(&waiting.client) {
                    self.log.detail(format_args!("client {who}: trying {told}, as it was told"));
                    return self.queue.push_front(waiting.to(told));
                }
                let why = format!("{to} cannot be reached from the gateway: {why}");
                self.turn_away(waiting, &why);
                if since.elapsed() > SLOW_ANSWER {
                    // Those behind would wait as long for the same answer.
                    self.close_waiting(&why, |it| it.client.to == to && it.since <= since);
                }
            }
            Report::Heard(slot, heard) => {
                if let Err(e) = self.hear(number, slot, heard) {
                    self.lose(number, &e.to_string());
                }
            }
        }
    }

    /// What a license server has said first to the client in that slot.
    ///
    /// # Errors
    /// The session is lost.
    fn hear(&mut self, number: usize, slot: usize, heard: Heard) -> io::Result<()> {
        let Some(carrier) = self.pool.get_mut(number) else {
            return Ok(());
        };
        let Some(client) = carrier.client(slot) else {
            return Ok(());
        };
        let (listener, dialled) = (client.listener, client.ends.map(|(_, ours)| ours.ip()));
        let (acceptor, epoll) = (&mut self.acceptor, &self.epoll);
        let frame = self.vendor_ports.hear(listener, dialled, heard, acceptor, epoll);
        let passed_on = match frame {
            Some(frame) => carrier.pass_on(slot, frame, epoll, &mut self.buffer),
            None => Ok(()),
        };
        self.plan_restart();
        passed_on
    }

    /// Closes a client that gets no channel; tells one that asked for it as of a proxy why.
    pub(super) fn turn_away(&mut self, waiting: Waiting, why: &str) {
        match waiting.client.asked {
            Some(_) => {
                self.proxy.turn_away(waiting.client, Status::BadGateway, why, &self.epoll);
            }
            None => waiting.client.reset(),
        }
    }

    /// Closes the waiting clients that `which` names.
    pub(super) fn close_waiting(&mut self, why: &str, which: impl Fn(&Waiting) -> bool) {
        for waiting in std::mem::take(&mut self.queue) {
            if which(&waiting) {
                let who = &waiting.client.who;
                self.log.detail(format_args!("client {who}: closed, it waited in vain"));
                self.turn_away(waiting, why);
            } else {
                self.queue.push_back(waiting);
            }
        }
    }

    pub(super) fn clients(&self) -> usize {
        self.queue.len() + self.pool.clients() + self.proxy.clients()
    }
}
