//! Messages whose headers ask for a trace (ADR-41): delivered one by one, with a note of everything that happens.
//!
//! Owns the order of the notes and the sending of the event; what headers ask for and how an event reads is `trace`'s.
//! Nothing here is on the path of other messages: sessions come here when [`Router::may_trace`] says so.

use super::deliver::{Draw, grant};
use super::detour::Parcel;
use super::{Message, Router, ScopeId};
use crate::account::Account;
use crate::link::{FLAG_ACCOUNT_IMPLIED, FLAG_HEADERS, FLAG_NO_ECHO, FLAG_NO_TRACES, Link, LinkKind};
use crate::plan::{Plan, Target};
use crate::requester::with_header;
use crate::responses::{Pending, is_reserved_by_gateways};
use crate::sharing::ServiceRoute;
use crate::trace::{Asked, DESTINATION, DISABLED, HOP, Trace, may_ask, refusal};
use accounts::exchange::ResponseType;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use wire::client::Publish;

/// How long events of other servers are waited for that find their way back through another account.
const EVENTS_NANOS: u64 = 10_000_000_000;

/// What becomes of a message that may ask for a trace.
pub enum Tracing {
    /// It is published as any other: it asks for nothing, or in vain.
    No,
    /// What follows is noted, until [`Router::end_trace`].
    Begun,
    /// This is published instead, which asks no other server for a trace.
    Instead(Parcel),
    /// It is not published: it was to be traced only, which is not possible.
    Skip,
    /// It is not published: its publisher may not publish where the event is to go, on this subject.
    Refused(Vec<u8>),
}

/// How the trace of a request goes on in another account.
pub(super) enum Entry {
    /// There is none.
    Untraced,
    /// It ends here, and so does the message that was to be traced only.
    Stop,
    /// It ends here.
    Left(Box<Trace>),
    /// Events of other servers come back on a subject of that account. Before: where they go, and the servers.
    Entered(Vec<u8>, u32, Arc<Pending>),
}

/// A subscription that matches a traced message.
struct Receiver {
    link: u32,
    /// Number of the subscription, or of the one that it stands for.
    number: u32,
    filter: Vec<u8>,
    queue: Vec<u8>,
    /// Of an imported stream: the subject in the importing account, and whether traces go on there.
    import: Option<(Vec<u8>, bool)>,
    /// The link that may not get the message.
    denied: Option<Arc<Link>>,
}

impl Receiver {
    fn is(&self, target: &Target) -> bool {
        let local = self.import.as_ref().map(|(local, _)| &local[..]);
        self.link == target.link.index
            && self.number == target.subscription
            && local == target.subject.as_ref().map(|text| text.subject())
    }
}

/// A traced message of the batch, which has no other.
struct Traced<'a> {
    plan: &'a Plan,
    receivers: &'a [Receiver],
    from: &'a Arc<Link>,
}

impl Router {
    /// Whether the headers of a message may ask for a trace. Ask only if it has any.
    #[inline]
    pub fn may_trace(read: &[u8], publish: &Publish) -> bool {
        may_ask(header(read, publish))
    }

    /// Looks at a message before it is published. Nothing may be staged.
    #[cold]
    pub fn begin_trace(
        &mut self,
        from: &Arc<Link>,
        scope: ScopeId,
        read: &[u8],
        publish: &Publish,
    ) -> Tracing {
        let Some(asked) = Asked::parse(header(read, publish)) else { return Tracing::No };
        let is_client = from.kind == LinkKind::Client;
        let account = self.scopes[scope.0 as usize].account.clone();
        let in_vain = if asked.is_only() { Tracing::Skip } else { Tracing::No };
        let untraced = || {
            let header = set_header(header(read, publish), DESTINATION, DISABLED);
            Tracing::Instead(Parcel::with_header(read, publish, &header))
        };
        if asked.is_outdated() {
            return if asked.is_only() || !is_client { in_vain } else { untraced() };
        }
        let mut destination = asked.destination().to_vec();
        if asked.is_external {
            let sharing = account.sharing();
            let Some(trace) = sharing.as_ref().and_then(|sharing| sharing.trace()) else {
                return Tracing::No;
            };
            let percent = u64::from(trace.sampling_percent);
            // as nats-server draws
            if is_client && percent < 100 && self.below(100) > percent {
                return untraced();
            }
            destination = trace.destination.clone().into_bytes();
        }
        if !subject::is_valid_publish(&destination) {
            return in_vain;
        }
        if !self.may_send_event(scope, &account, &destination) {
            return if is_client { Tracing::Refused(destination) } else { Tracing::Skip };
        }
        let message = (&read[publish.subject_range()], publish.body_len());
        let trace = Trace::new(&asked, (&account, from), destination, message, self.now_nanos);
        self.trace = Some(Box::new(trace));
        Tracing::Begun
    }

    fn may_send_event(&self, scope: ScopeId, account: &Account, destination: &[u8]) -> bool {
        let permissions = &self.scopes[scope.0 as usize].permissions;
        let is_system = || *account.name == *self.broker.names().system_account;
        !is_reserved_by_gateways(destination)
            && (!destination.starts_with(b"$NRG.") || is_system())
            && permissions.as_ref().is_none_or(|permissions| permissions.can_publish(destination))
    }

    /// Publishes what was noted of the message. `error`: why it was refused, else empty.
    #[cold]
    pub fn end_trace(&mut self, error: &str) {
        let Some(trace) = self.trace.take() else { return };
        let names = self.broker.names();
        let Some(from) = self.own_link().filter(|_| !names.system_account.is_empty()) else { return };
        let number = self.broker.sent.fetch_add(1, Relaxed) + 1;
        let time = crate::requester::rfc3339(self.now_nanos);
        let stamp = format!("{}\"seq\":{number},\"time\":\"{time}\"", names.stamp);
        let (header, payload) = trace.event(&stamp, error);
        let scope = self.scope(&trace.account, LinkKind::Client, None);
        let parcel = Parcel::new(&trace.destination, b"", &header, &payload);
        self.send_parcel(scope, &from, &parcel, &mut Vec::new());
    }

    /// [`finish`](Self::finish) for a batch of one message, `publish` in `read`, which may be traced.
    #[cold]
    pub fn finish_traced(&mut self, from: &Arc<Link>, scope: ScopeId, read: &[u8], publish: &Publish) {
        let Some(mut trace) = self.trace.take() else { return self.finish(from, read) };
        let account = self.scopes[scope.0 as usize].account.clone();
        let message = self.messages.first().copied();
        let plan = self.plans.first().cloned().unwrap_or_default();
        if let Some(subject) = &plan.subject {
            trace.mapped(subject.subject(), self.now_nanos);
        }
        let published = &read[publish.subject_range()];
        let subject = match (&plan.subject, message) {
            (Some(subject), _) => subject.subject().to_vec(),
            (None, None) if !self.met.is_empty() => self.met.clone(),
            _ => published.to_vec(),
        };
        let receivers = self.receivers(&account, &subject);
        let denied = receivers.iter().filter(|receiver| receiver.queue.is_empty());
        for (receiver, link) in denied.filter_map(|receiver| Some((receiver, receiver.denied.as_ref()?))) {
            trace.delivered(link, &receiver.filter, b"", refusal::DENIED, self.now_nanos);
        }
        if let Some(message) = message {
            let traced = Traced { plan: &plan, receivers: &receivers, from };
            self.bodies.clear();
            self.bodies.resize(1, None);
            let drawn = self.deliver_traced(&mut trace, &traced, &message, read);
            self.finish_staged(from, read);
            self.route_traced(&mut trace, &traced, (&message, &subject), &drawn, read);
            self.clear_batch();
        }
        self.trace = Some(trace);
    }

    /// All subscriptions in an account that match.
    fn receivers(&self, account: &Account, subject: &[u8]) -> Vec<Receiver> {
        let (mut filters, mut numbers) = (Vec::new(), Vec::new());
        account.read(|interest| {
            interest.matches(subject, account.hash(subject), &mut filters, &mut numbers);
            let receiver = |number: &u32| {
                let (record, shadow) = (interest.get(*number), interest.shadow(*number));
                let mut filter = Vec::new();
                interest.text(record.filter, &mut filter);
                let queue = interest.queue_name(record.queue).to_vec();
                let local = shadow.map(|shadow| shadow.local_subject(subject));
                let link = self.broker.link(record.link).filter(|link| link.kind != LinkKind::Route);
                let denied = link.filter(|link| {
                    let group = (!queue.is_empty()).then_some(&queue[..]);
                    let subject = local.as_deref().unwrap_or(subject);
                    link.deny_filter().is_some_and(|permissions| !permissions.can_deliver(subject, group))
                });
                Receiver {
                    link: record.link,
                    number: shadow.map_or(*number, |shadow| shadow.of),
                    import: local.zip(shadow.map(|shadow| shadow.allows_trace())),
                    filter,
                    queue,
                    denied,
                }
            };
            numbers.iter().map(receiver).collect()
        })
    }

    /// Stages what local receivers get. Returns the groups that are served by other servers.
    fn deliver_traced(
        &mut self,
        trace: &mut Trace,
        traced: &Traced<'_>,
        message: &Message,
        read: &[u8],
    ) -> Vec<(u32, usize)> {
        let plan = traced.plan;
        for target in 0..plan.plain {
            let to = &plan.targets[target];
            let is_own = Arc::ptr_eq(&to.link, traced.from) && traced.from.has(FLAG_NO_ECHO);
            let takes = || !is_own && grant(to);
            if self.note_target(trace, traced, target as u32, is_own, takes) {
                self.stage_local(plan, 0, message.plan, target as u32, true);
            }
        }
        let mut drawn = Vec::new();
        for place in 0..plan.groups.len() {
            if let Some((start, end)) = message.queues {
                let named = &self.named[start as usize..end as usize];
                if !named.iter().any(|(a, b)| read[*a as usize..*b as usize] == *plan.groups[place].name) {
                    continue;
                }
            }
            let local = match self.draw(plan, place, traced.from, false) {
                Some(Draw::Local(target, is_granted)) => Some((target, is_granted)),
                Some(Draw::Route(route)) => {
                    drawn.push((route, place));
                    None
                }
                None => None,
            };
            if let Some((target, is_granted)) = local
                && self.note_target(trace, traced, target, false, || true)
            {
                self.stage_local(plan, 0, message.plan, target, is_granted);
            }
        }
        drawn
    }

    /// Notes what becomes of a receiver; whether it gets the message.
    fn note_target(
        &mut self,
        trace: &mut Trace,
        traced: &Traced<'_>,
        target: u32,
        is_own: bool,
        takes: impl FnOnce() -> bool,
    ) -> bool {
        let target = &traced.plan.targets[target as usize];
        if target.link.kind == LinkKind::Internal {
            return takes();
        }
        let receiver = traced.receivers.iter().find(|receiver| receiver.is(target));
        if let Some((local, goes_on)) = receiver.and_then(|receiver| receiver.import.as_ref()) {
            let account = target.link.about.lock().account.clone();
            trace.exported(&account, local, self.now_nanos);
            if !goes_on {
                return !trace.is_only && takes();
            }
        }
        let error = match () {
            () if is_own => refusal::NO_ECHO,
            () if target.link.close_reason().is_some() => refusal::CLOSED,
            () if trace.is_only || takes() => "",
            // it reached its maximum: it is over, though its owner may not have ended it yet
            () => return false,
        };
        let (filter, queue) = receiver.map_or((&[][..], &[][..]), |r| (&r.filter, &r.queue));
        trace.delivered(&target.link, filter, queue, error, self.now_nanos);
        error.is_empty() && !trace.is_only
    }

    /// Sends the message to other servers, each with a hop of its own.
    fn route_traced(
        &mut self,
        trace: &mut Trace,
        traced: &Traced<'_>,
        (message, subject): (&Message, &[u8]),
        drawn: &[(u32, usize)],
        read: &[u8],
    ) {
        let plan = traced.plan;
        for (place, route) in plan.routes.iter().enumerate() {
            let mut names = Vec::new();
            for (_, group) in drawn.iter().filter(|(route, _)| *route as usize == place) {
                names.extend_from_slice(&plan.groups[*group].name);
                names.push(b' ');
            }
            if !route.plain && names.is_empty() {
                continue;
            }
            let link = &route.link;
            let hop = trace.next_hop();
            let error = match (link.has(FLAG_NO_TRACES), trace.is_only) {
                (false, _) => "",
                (true, false) => refusal::UNKNOWN,
                (true, true) => refusal::ONLY_UNKNOWN,
            };
            trace.routed(link, &hop, error, self.now_nanos);
            if error == refusal::ONLY_UNKNOWN {
                continue;
            }
            let header = set_header(header(read, &message.publish), HOP, hop.as_bytes());
            let published = Publish { subject: 0, subject_len: 0, ..message.publish };
            let parcel = Parcel::with_subject(subject, read, &published, &header);
            let account: &[u8] = if link.has(FLAG_ACCOUNT_IMPLIED) { &[] } else { &plan.account };
            let bytes = (parcel.bytes(), parcel.bytes());
            self.bodies[0] = None;
            self.scratch.begin();
            self.scratch.routed(bytes, 0, parcel.publish(), account, &names, link.has(FLAG_HEADERS));
            self.scratch.end();
            self.send(link, parcel.bytes(), 1, traced.from);
        }
    }

    /// A mapping gave the message that is published another subject.
    #[cold]
    pub(super) fn note_mapping(&mut self, subject: &[u8]) {
        if let Some(trace) = &mut self.trace {
            trace.mapped(subject, self.now_nanos);
        }
    }

    /// A traced request goes on in another account, as `to`. `header` is what it bears there.
    pub(super) fn enter_service(
        &mut self,
        account: &Arc<Account>,
        route: &ServiceRoute,
        (subject, to): (&[u8], &[u8]),
        header: &mut Vec<u8>,
    ) -> Entry {
        let import = route.import();
        let entry = self.enter(&route.exporter, (subject, to), import.allow_trace, header);
        let Some(trace) = self.trace.as_mut().filter(|_| matches!(entry, Entry::Untraced)) else {
            return entry;
        };
        let (before, hops) = (trace.destination.clone(), trace.hops);
        let back = self.expect(
            &route.exporter,
            Pending {
                subject: Box::default(),
                account: account.clone(),
                to: before.clone().into(),
                kind: ResponseType::Stream,
                threshold_nanos: EVENTS_NANOS,
                export: route.export.clone(),
                share: import.share,
                since_nanos: AtomicU64::new(self.now_nanos),
                measured: None,
                answered: AtomicBool::new(false),
            },
        );
        *header = set_header(header, DESTINATION, &back.subject);
        if let Some(trace) = &mut self.trace {
            trace.destination = back.subject.to_vec();
        }
        Entry::Entered(before, hops, back)
    }

    /// An answer goes back to the account that asked: traces do not.
    pub(super) fn leave_by_answer(
        &mut self,
        account: &Account,
        subjects: (&[u8], &[u8]),
        header: &mut Vec<u8>,
    ) -> Entry {
        self.enter(account, subjects, false, header)
    }

    /// Notes the crossing, and takes the trace away where it may not go on.
    fn enter(
        &mut self,
        account: &Account,
        (subject, to): (&[u8], &[u8]),
        goes_on: bool,
        header: &mut Vec<u8>,
    ) -> Entry {
        let Some(mut trace) = self.trace.take() else { return Entry::Untraced };
        trace.requested(&account.name, subject, to, self.now_nanos);
        let is_only = trace.is_only;
        if goes_on || is_only {
            self.trace = Some(trace);
            return if goes_on { Entry::Untraced } else { Entry::Stop };
        }
        *header = set_header(header, DESTINATION, DISABLED);
        Entry::Left(trace)
    }

    /// The request went its way. Returns whether it was traced only, so that no answer will come.
    pub(super) fn leave_service(&mut self, exporter: &Account, entry: Entry) -> bool {
        match entry {
            Entry::Untraced | Entry::Stop => {}
            Entry::Left(trace) => self.trace = Some(trace),
            Entry::Entered(before, hops, back) => {
                let Some(trace) = &mut self.trace else { return false };
                trace.destination = before;
                if trace.hops == hops {
                    exporter.responses.remove(&back, None);
                }
                return trace.is_only;
            }
        }
        false
    }
}

/// `header` with `name` set to `value`.
fn set_header(header: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    with_header(header, name, value, &mut out);
    out
}

fn header<'a>(read: &'a [u8], publish: &Publish) -> &'a [u8] {
    let start = publish.body as usize;
    &read[start..start + publish.header_len as usize]
}
