//! Staging and delivery: from the batch of a read to what each receiver's output is given.
//!
//! Owns the drawing of queue members and the order in which receivers are served; never looks a plan up.

use super::{DEFER_BYTES_MAX, Op, Router, Touched};
use crate::link::{
    CloseReason, FLAG_ACCOUNT_IMPLIED, FLAG_HEADERS, FLAG_NO_ECHO, FLAG_REPLIES, Link, LinkKind,
};
use crate::mailbox::Command;
use crate::output::{Delivered, Promise, Rendering};
use crate::plan::{Group, Plan, Target, Text};
use crate::render::Sid;
use std::sync::Arc;
use wire::client::Publish;

impl Router {
    /// All messages go to the same plain subscribers: rendered once for all targets that share a sid.
    pub(super) fn finish_plain(&mut self, from: &Arc<Link>, read: &[u8]) {
        let plan = self.plans[0].clone();
        let mut rendered: Option<(Sid<'_>, bool, u64)> = None;
        for group in plan.targets[..plan.plain].chunk_by(|a, b| Arc::ptr_eq(&a.link, &b.link)) {
            let link = &group[0].link;
            if Arc::ptr_eq(link, from) && from.has(FLAG_NO_ECHO) {
                continue;
            }
            let headers = link.has(FLAG_HEADERS);
            let messages = if let [target] = group {
                let granted = grant_many(target, self.messages.len() as u64);
                let key = (target.sid(), headers, granted);
                let mut is_patched = || match rendered {
                    Some(before) if (before.1, before.2) == (key.1, key.2) => {
                        before.0 == key.0
                            || plan.subject.is_none() && {
                                let messages = self.messages.iter().take(granted as usize);
                                self.scratch.replace_sid(messages.map(|m| &m.publish), before.0, key.0)
                            }
                    }
                    _ => false,
                };
                if granted > 0 && !is_patched() {
                    self.scratch.begin();
                    let messages = self.messages.iter().take(granted as usize).enumerate();
                    match &plan.subject {
                        None => {
                            for (number, message) in messages {
                                self.scratch.message(read, number as u32, &message.publish, key.0, headers);
                            }
                        }
                        Some(text) => {
                            for (number, message) in messages {
                                let to = (key.0, headers);
                                self.scratch.renamed_message(text, read, number as u32, &message.publish, to);
                            }
                        }
                    }
                    self.scratch.end();
                }
                if granted > 0 {
                    rendered = Some(key);
                }
                granted
            } else {
                rendered = None;
                self.render_group(group, plan.subject.as_ref(), read, headers)
            };
            if messages == 0 {
                continue;
            }
            if link.has(FLAG_REPLIES) {
                for message in &self.messages {
                    self.note_reply(link, read, &message.publish);
                }
            }
            self.send(link, read, messages, from);
        }
    }

    /// Several subscriptions of one link: each message once for each of them, in one write.
    fn render_group(&mut self, group: &[Target], subject: Option<&Text>, read: &[u8], headers: bool) -> u64 {
        let wanted = self.messages.len() as u64;
        let granted: Vec<u64> = group.iter().map(|target| grant_many(target, wanted)).collect();
        self.scratch.begin();
        for (number, message) in self.messages.iter().enumerate() {
            for (target, granted) in group.iter().zip(&granted) {
                if (number as u64) >= *granted {
                    continue;
                }
                let (number, publish) = (number as u32, &message.publish);
                match subject {
                    None => self.scratch.message(read, number, publish, target.sid(), headers),
                    Some(text) => {
                        self.scratch.renamed_message(text, read, number, publish, (target.sid(), headers));
                    }
                }
            }
        }
        self.scratch.end();
        granted.iter().sum()
    }

    /// Sorts the batch by receiver, drawing the members of queue groups.
    pub(super) fn stage_all(&mut self, from: &Arc<Link>, read: &[u8]) {
        for number in 0..self.messages.len() {
            let message = self.messages[number];
            let plan = self.plans[message.plan as usize].clone();
            for target in 0..plan.plain {
                self.stage_target(&plan, number as u32, message.plan, target as u32, from);
            }
            let mut drawn: Vec<(u32, usize)> = Vec::new();
            match message.queues {
                None => {
                    for place in 0..plan.groups.len() {
                        match self.draw(&plan, place, from, false) {
                            Some(Draw::Local(target, is_granted)) => {
                                self.stage_local(&plan, number as u32, message.plan, target, is_granted);
                            }
                            Some(Draw::Route(route)) => drawn.push((route, place)),
                            None => {}
                        }
                    }
                }
                Some((start, end)) => {
                    for named in start..end {
                        let (from_byte, to_byte) = self.named[named as usize];
                        let name = &read[from_byte as usize..to_byte as usize];
                        let Some(place) = plan.groups.iter().position(|g| *g.name == *name) else { continue };
                        match self.draw(&plan, place, from, false) {
                            Some(Draw::Local(target, is_granted)) => {
                                self.stage_local(&plan, number as u32, message.plan, target, is_granted);
                            }
                            Some(Draw::Route(route)) => drawn.push((route, place)),
                            None => {}
                        }
                    }
                }
            }
            self.stage_routes(&plan, number as u32, message.plan, &drawn);
        }
    }

    fn stage_routes(&mut self, plan: &Plan, message: u32, plan_place: u32, drawn: &[(u32, usize)]) {
        for (place, route) in plan.routes.iter().enumerate() {
            let start = self.names.len() as u32;
            for (_, group) in drawn.iter().filter(|(r, _)| *r == place as u32) {
                self.names.extend_from_slice(&plan.groups[*group].name);
                self.names.push(b' ');
            }
            let end = self.names.len() as u32;
            if route.plain || end > start {
                let op = Op { message, target: place as u32, names: (start, end), is_granted: true };
                self.stage(route.link.index, op, plan_place, true);
            }
        }
    }

    fn stage_target(&mut self, plan: &Plan, message: u32, plan_place: u32, target: u32, from: &Arc<Link>) {
        let to = &plan.targets[target as usize];
        if !(Arc::ptr_eq(&to.link, from) && from.has(FLAG_NO_ECHO)) && grant(to) {
            self.stage_local(plan, message, plan_place, target, true);
        }
    }

    pub(super) fn stage_local(
        &mut self,
        plan: &Plan,
        message: u32,
        plan_place: u32,
        target: u32,
        is_granted: bool,
    ) {
        let index = plan.targets[target as usize].link.index;
        self.has_ungranted |= !is_granted;
        self.stage(index, Op { message, target, names: (0, 0), is_granted }, plan_place, false);
    }

    #[inline]
    fn stage(&mut self, index: u32, op: Op, plan: u32, route: bool) {
        if self.stage.len() <= index as usize {
            self.stage.resize_with(index as usize + 1, Vec::new);
        }
        let ops = &mut self.stage[index as usize];
        if ops.is_empty() {
            self.touched.push(Touched { index, plan, target: op.target, route });
        }
        ops.push(op);
    }

    /// A member of a queue group, each as likely as any other: those behind a route count by their number
    /// (nats-server's queue weight). A message that came over a route stays here if any member here can take
    /// it; if all have left since it was sent, it goes on to another server's.
    pub(super) fn draw(
        &mut self,
        plan: &Plan,
        group: usize,
        from: &Arc<Link>,
        must_grant: bool,
    ) -> Option<Draw> {
        let group = &plan.groups[group];
        let local = group.local.len() as u64;
        let routed = from.kind == LinkKind::Route;
        let remote = if routed { 0 } else { u64::from(group.remote_weight) };
        let ticket = self.below(local + remote);
        if ticket >= local
            && remote > 0
            && let Some(route) = drawn_route(plan, group, (ticket - local) as u32, from)
        {
            return Some(Draw::Route(route));
        }
        let first = if ticket < local { ticket as usize } else { 0 };
        for target in group.local[first..].iter().chain(&group.local[..first]) {
            let to = &plan.targets[*target as usize];
            let own = Arc::ptr_eq(&to.link, from) && from.has(FLAG_NO_ECHO);
            if own || to.link.close_reason().is_some() {
                continue;
            }
            if !must_grant && !to.progress.is_limited() {
                return Some(Draw::Local(*target, false));
            }
            // a member at its maximum leaves the message to the others
            if grant(to) {
                return Some(Draw::Local(*target, true));
            }
        }
        drawn_route(plan, group, 0, from).map(Draw::Route)
    }

    /// Takes the deliveries of the members drawn for this batch. Where a maximum was set since, what is beyond it
    /// goes to another member here.
    fn grant_drawn(&mut self, from: &Arc<Link>) {
        self.has_ungranted = false;
        for i in 0..self.touched.len() {
            let Touched { index, route: false, .. } = self.touched[i] else { continue };
            let mut ops = std::mem::take(&mut self.stage[index as usize]);
            let mut at = 0;
            while at < ops.len() {
                let plan = self.messages[ops[at].message as usize].plan;
                let same = |op: &Op| {
                    !op.is_granted
                        && op.target == ops[at].target
                        && self.messages[op.message as usize].plan == plan
                };
                let run = ops[at..].iter().take_while(|op| same(op)).count();
                if run == 0 {
                    at += 1;
                    continue;
                }
                let target = &self.plans[plan as usize].targets[ops[at].target as usize];
                let granted = grant_many(target, run as u64) as usize;
                for op in ops.drain(at + granted..at + run) {
                    self.draw_again(op, plan, from);
                }
                at += granted;
            }
            // a member of the same link may have been drawn instead
            ops.append(&mut self.stage[index as usize]);
            self.stage[index as usize] = ops;
        }
    }

    #[cold]
    fn draw_again(&mut self, op: Op, plan_place: u32, from: &Arc<Link>) {
        let plan = self.plans[plan_place as usize].clone();
        let group = plan.groups.iter().position(|group| group.local.contains(&op.target));
        if let Some(group) = group
            && let Some(Draw::Local(target, _)) = self.draw(&plan, group, from, true)
        {
            self.stage_local(&plan, op.message, plan_place, target, true);
        }
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((self.random_bits() >> 32) * bound) >> 32
    }

    pub(super) fn random_bits(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    pub(super) fn finish_staged(&mut self, from: &Arc<Link>, read: &[u8]) {
        if self.has_ungranted {
            self.grant_drawn(from);
        }
        for i in 0..self.touched.len() {
            let touched = self.touched[i];
            let mut ops = std::mem::take(&mut self.stage[touched.index as usize]);
            if ops.is_empty() {
                continue;
            }
            let plan = self.plans[touched.plan as usize].clone();
            self.scratch.begin();
            let link = if touched.route {
                let link = &plan.routes[touched.target as usize].link;
                self.render_routed(link, read, &ops);
                link
            } else {
                let link = &plan.targets[touched.target as usize].link;
                self.render_messages(link, read, &ops);
                link
            };
            self.scratch.end();
            self.send(link, read, ops.len() as u64, from);
            ops.clear();
            self.stage[touched.index as usize] = ops;
        }
        self.touched.clear();
    }

    fn render_messages(&mut self, link: &Link, read: &[u8], ops: &[Op]) {
        let headers = link.has(FLAG_HEADERS);
        for op in ops {
            let message = &self.messages[op.message as usize];
            let plan = &self.plans[message.plan as usize];
            let target = &plan.targets[op.target as usize];
            match plan.subject_for(target) {
                None => self.scratch.message(read, op.message, &message.publish, target.sid(), headers),
                Some(text) => {
                    let to = (target.sid(), headers);
                    self.scratch.renamed_message(text, read, op.message, &message.publish, to);
                }
            }
            if link.has(FLAG_REPLIES) {
                self.note_reply(link, read, &message.publish);
            }
        }
    }

    #[cold]
    fn note_reply(&self, link: &Link, read: &[u8], publish: &Publish) {
        if publish.reply_len > 0 {
            link.reply_delivered(&read[publish.reply_range()], self.now_nanos);
        }
    }

    fn render_routed(&mut self, link: &Link, read: &[u8], ops: &[Op]) {
        let implied = link.has(FLAG_ACCOUNT_IMPLIED);
        let headers = link.has(FLAG_HEADERS);
        for op in ops {
            let message = &self.messages[op.message as usize];
            let names = &self.names[op.names.0 as usize..op.names.1 as usize];
            let plan = &self.plans[message.plan as usize];
            let account: &[u8] = if implied { &[] } else { &plan.account };
            let (subjects, publish) = as_subject(read, &message.publish, plan.subject.as_ref());
            self.scratch.routed((subjects, read), op.message, &publish, account, names, headers);
        }
    }

    pub(super) fn send(&mut self, link: &Arc<Link>, read: &[u8], messages: u64, from: &Arc<Link>) {
        if self.lines.is_some() {
            self.log_messages(link, read);
        }
        let mut rendering = Rendering {
            scratch: self.scratch.bytes(),
            read,
            segments: &self.scratch.segments,
            total: self.scratch.total,
            messages,
            message_bytes: self.scratch.message_bytes,
            bodies: &mut self.bodies,
        };
        let max = self.pending_bytes_max;
        let delivered = if (self.busy || self.bulk) && rendering.total < DEFER_BYTES_MAX {
            let promised = if self.bulk { Promise::InTurn } else { Promise::Soon };
            let (delivered, flush) = link.output.defer(&mut rendering, max, promised);
            match promised {
                Promise::InTurn if flush => self.waiting.push_back(link.clone()),
                _ if flush => self.dirty.push(link.clone()),
                _ => {}
            }
            delivered
        } else {
            link.output.deliver(&*link.transport, &mut rendering, max)
        };
        self.settle(link, delivered);
        link.pause_if_congested(from, self.now_nanos, self.pending_bytes_max, &self.broker.stalls_publishers);
    }

    pub(super) fn settle(&self, link: &Arc<Link>, delivered: Delivered) {
        match delivered {
            Delivered::Yes => link.release_if_drained(),
            Delivered::Closed => {}
            Delivered::Broken => link.close(CloseReason::WriteError),
            Delivered::Overflow => {
                self.broker.count_slow_consumer(link.kind);
                link.close(CloseReason::SlowConsumerPendingBytes);
            }
        }
    }
}

/// The route whose members hold the ticket; never the one that the message came over.
fn drawn_route(plan: &Plan, group: &Group, mut ticket: u32, from: &Link) -> Option<u32> {
    let others = || group.remote.iter().filter(|(route, _)| plan.routes[*route as usize].link.id != from.id);
    for (route, weight) in others() {
        if ticket < *weight {
            return Some(*route);
        }
        ticket -= weight;
    }
    others().next().map(|(route, _)| *route)
}

pub(super) enum Draw {
    /// A place in `targets`, and whether the delivery was taken.
    Local(u32, bool),
    Route(u32),
}

/// Takes one delivery of a subscription, unless it is at its maximum. Its owner hears of the last one.
pub(super) fn grant(to: &Target) -> bool {
    grant_many(to, 1) > 0
}

/// Up to so many deliveries to a target; fewer where it reaches its maximum, and then its owner ends it.
fn grant_many(to: &Target, wanted: u64) -> u64 {
    let (granted, last) = to.progress.take(wanted);
    if last {
        to.link.owner.post(ended(&to.link, to.subscription));
    }
    granted
}

fn ended(link: &Arc<Link>, subscription: u32) -> Command {
    Command::Ended { link: link.clone(), subscription }
}

/// Where the subject of a message stands, and the message as seen from there.
#[inline]
fn as_subject<'a>(read: &'a [u8], publish: &Publish, renamed: Option<&'a Text>) -> (&'a [u8], Publish) {
    match renamed {
        None => (read, *publish),
        Some(text) => (text.padded(), Publish { subject: 0, subject_len: text.len, ..*publish }),
    }
}
