//! Messages that go on in other accounts, and those whose subject is drawn: requests to imported services, their
//! responses, weighted mappings.
//!
//! Owns the rewriting of such a message (subject, reply, who asks) into a buffer of its own, which is then published
//! in the other account like any other. A message crosses at most [`HOPS_MAX`] accounts, and none twice by the same
//! export.

use super::tracing::Entry;
use super::{READ_PADDING, Router, ScopeId, Verdict};
use crate::account::Account;
use crate::link::{Link, LinkKind};
use crate::plan::{Plan, Text, Unusual};
use crate::requester::{Detail, HEADER, with_header, write_client};
use crate::responses::{End, Measured, Pending};
use crate::sharing::{ServiceRoute, is_over};
use accounts::exchange::ResponseType;
use parking_lot::Mutex;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use wire::client::Publish;

/// Imports in a row that a message may pass.
const HOPS_MAX: usize = 16;

/// An import that a message passed on its way.
pub(super) struct Hop {
    account: u32,
    export: Arc<str>,
    /// Who asks is told in full from here on.
    share: bool,
    detail: Detail,
}

/// A message with everything it consists of in a buffer of its own.
pub struct Parcel {
    bytes: Vec<u8>,
    publish: Publish,
}

impl Parcel {
    pub(super) fn new(subject: &[u8], reply: &[u8], header: &[u8], payload: &[u8]) -> Parcel {
        let total = header.len() + payload.len();
        let mut bytes = Vec::with_capacity(subject.len() + reply.len() + total + 64 + READ_PADDING);
        bytes.extend_from_slice(subject);
        bytes.push(b' ');
        let reply_at = bytes.len();
        bytes.extend_from_slice(reply);
        if !reply.is_empty() {
            bytes.push(b' ');
        }
        let sizes = bytes.len();
        if !header.is_empty() {
            bytes.extend_from_slice(header.len().to_string().as_bytes());
            bytes.push(b' ');
        }
        bytes.extend_from_slice(total.to_string().as_bytes());
        bytes.extend_from_slice(b"\r\n");
        let body = bytes.len();
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        let publish = Publish {
            subject: 0,
            subject_len: subject.len() as u32,
            reply: reply_at as u32,
            reply_len: reply.len() as u32,
            sizes: sizes as u32,
            body: body as u32,
            header_len: header.len() as u32,
            end: bytes.len() as u32,
            verbatim: true,
        };
        bytes.resize(bytes.len() + READ_PADDING, 0);
        Parcel { bytes, publish }
    }

    /// The message `publish` in `read` with other headers.
    pub(super) fn with_header(read: &[u8], publish: &Publish, header: &[u8]) -> Parcel {
        Parcel::with_subject(&read[publish.subject_range()], read, publish, header)
    }

    /// The message `publish` in `read` with another subject and other headers.
    pub(super) fn with_subject(subject: &[u8], read: &[u8], publish: &Publish, header: &[u8]) -> Parcel {
        let letter = Letter { read, publish };
        Parcel::new(subject, letter.reply(), header, letter.payload())
    }

    /// What it consists of, with readable bytes behind it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The message in these bytes.
    pub fn publish(&self) -> &Publish {
        &self.publish
    }
}

/// A message as it was read.
#[derive(Clone, Copy)]
struct Letter<'a> {
    read: &'a [u8],
    publish: &'a Publish,
}

impl<'a> Letter<'a> {
    fn reply(self) -> &'a [u8] {
        &self.read[self.publish.reply_range()]
    }

    fn header(self) -> &'a [u8] {
        let start = self.publish.body as usize;
        &self.read[start..start + self.publish.header_len as usize]
    }

    fn payload(self) -> &'a [u8] {
        &self.read[self.publish.body_range()][self.publish.header_len as usize..]
    }
}

impl Router {
    /// Stages what a plan says that is not the usual: see [`Unusual`].
    #[cold]
    #[inline(never)]
    pub(super) fn publish_unusual(
        &mut self,
        scope: ScopeId,
        plan: Rc<Plan>,
        letter: &Publish,
        read: &[u8],
    ) -> Verdict {
        self.met.clear();
        if let Some(text) = &plan.subject {
            self.met.extend_from_slice(text.subject());
            self.note_mapping(text.subject());
        }
        match plan.unusual {
            Unusual::Denied => Verdict::Denied,
            Unusual::None | Unusual::Mapped if plan.is_empty() => Verdict::NoInterest,
            Unusual::None | Unusual::Mapped => {
                self.push_planned(letter, plan, None);
                Verdict::Delivered
            }
            Unusual::Choice => {
                let Some((mapped_scope, subject)) =
                    self.draw_destination(&plan, &read[letter.subject_range()])
                else {
                    return Verdict::DrawnNobody;
                };
                let plan = self.plan(mapped_scope, &subject);
                match self.publish_unusual(mapped_scope, plan, letter, read) {
                    Verdict::Delivered => Verdict::Drawn,
                    Verdict::NoInterest => Verdict::DrawnNobody,
                    verdict => verdict,
                }
            }
            Unusual::Services | Unusual::Response | Unusual::Tracked | Unusual::Measurement => {
                if !plan.is_empty() {
                    self.push_planned(letter, plan.clone(), None);
                }
                self.detoured = Some((scope, plan));
                Verdict::Detour
            }
        }
    }

    /// Draws where a mapping with several destinations sends one message; `None` loses it.
    fn draw_destination(&mut self, plan: &Plan, subject: &[u8]) -> Option<(ScopeId, Vec<u8>)> {
        let (sharing, scope) = plan.choice.as_ref()?;
        let percent = self.below(100) as u8;
        let transform = sharing.mappings().find(subject)?.choose(percent)?;
        let mut mapped = Vec::new();
        transform
            .apply(subject, &mut || (self.random_bits() >> 33) as u32, &mut mapped)
            .then_some((*scope, mapped))
    }

    /// The subject of the message that the last verdict was about, if a mapping changed it: `None` for the
    /// publisher's own. Valid after [`Verdict::NoInterest`] and [`Verdict::Denied`].
    pub fn mapped_subject(&self) -> Option<&[u8]> {
        (!self.met.is_empty()).then_some(&self.met[..])
    }

    /// Takes the message whose verdict was [`Verdict::Detour`] on its way. What is staged is handed over first, so
    /// that messages stay in order; `read` and `publish` are those of the message.
    #[cold]
    pub fn detour(&mut self, from: &Arc<Link>, read: &[u8], publish: &Publish) -> Verdict {
        let Some((scope, plan)) = self.detoured.take() else { return Verdict::NoInterest };
        self.finish_traced(from, scope, read, publish);
        let delivered = self.travel(scope, &plan, from, Letter { read, publish }, &mut Vec::new());
        self.met.clear();
        if let Some(text) = &plan.subject {
            self.met.extend_from_slice(text.subject());
        }
        if delivered { Verdict::Delivered } else { Verdict::NoInterest }
    }

    fn travel(
        &mut self,
        scope: ScopeId,
        plan: &Plan,
        from: &Arc<Link>,
        letter: Letter<'_>,
        hops: &mut Vec<Hop>,
    ) -> bool {
        let account = self.scopes[scope.0 as usize].account.clone();
        let published = || &letter.read[letter.publish.subject_range()];
        let subject = plan.subject.as_ref().map_or_else(published, Text::subject);
        let mut delivered = !plan.is_empty();
        match plan.unusual {
            Unusual::Response => delivered |= self.respond(&account, subject, from, letter, hops),
            Unusual::Tracked => self.report_to_requestor(&account, subject, from),
            Unusual::Measurement => self.merge_measurement(letter.payload(), from),
            _ => {
                for route in &plan.services {
                    delivered |= self.request(&account, route, subject, from, letter, hops);
                }
            }
        }
        delivered
    }

    /// A request of `account` goes to an imported service.
    fn request(
        &mut self,
        account: &Arc<Account>,
        route: &ServiceRoute,
        subject: &[u8],
        from: &Arc<Link>,
        letter: Letter<'_>,
        hops: &mut Vec<Hop>,
    ) -> bool {
        let (import, exporter) = (route.import(), &route.exporter);
        let passed = |hop: &Hop| hop.account == exporter.index && hop.export == route.export;
        if hops.len() >= HOPS_MAX || hops.iter().any(passed) {
            return false;
        }
        let share = hops.last().map_or(import.share, |hop| hop.share);
        let sampled = import.latency.as_ref().and_then(|latency| {
            let header = self.sample(latency.sampling_percent, letter.header())?;
            let requestor = from.clone();
            let results = latency.results.as_str().into();
            Some(Measured { results, requestor, header, merge: Mutex::default() })
        });
        let mut reply = letter.reply();
        let mut pending = None;
        if reply.is_empty() {
            if let Some(measured) = sampled {
                self.report_bad_request(exporter, &measured, import.share);
            }
        } else if !reply.starts_with(b"$JS.ACK.") {
            pending = Some(self.expect(
                exporter,
                Pending {
                    subject: Box::default(),
                    account: account.clone(),
                    to: reply.into(),
                    kind: import.response_type,
                    threshold_nanos: import.response_threshold_nanos,
                    export: route.export.clone(),
                    share: import.share,
                    since_nanos: AtomicU64::new(self.now_nanos),
                    measured: sampled.filter(|_| import.response_type == ResponseType::Singleton),
                    answered: AtomicBool::new(false),
                },
            ));
        }
        if let Some(pending) = &pending {
            reply = &pending.subject;
        }
        let mut to = Vec::new();
        import.remote(subject, &mut to);
        let detail = self.detail(hops.last(), share, import.share, exporter);
        let mut header = Vec::new();
        if from.kind == LinkKind::Route {
            header.extend_from_slice(letter.header());
        } else {
            let mut client = String::new();
            let service = hops.last().map(|_| &*account.name);
            write_client(from, detail, service, &self.broker.names(), &mut client);
            with_header(letter.header(), HEADER, client.as_bytes(), &mut header);
        }
        let entry = self.enter_service(account, route, (subject, &to), &mut header);
        let parcel = Parcel::new(&to, reply, &header, letter.payload());
        hops.push(Hop { account: exporter.index, export: route.export.clone(), share, detail });
        let delivered = !matches!(entry, Entry::Stop) && self.send_parcel(route.scope, from, &parcel, hops);
        hops.pop();
        let is_only = self.leave_service(exporter, entry);
        if let Some(pending) = pending.filter(|_| !delivered || is_only) {
            exporter.responses.remove(&pending, Some(End::NoResponders));
        }
        delivered
    }

    /// How much of the requestor the service is told.
    fn detail(&self, last: Option<&Hop>, share: bool, shares: bool, exporter: &Account) -> Detail {
        let is_system = self.broker.names().system_account == *exporter.name;
        match last {
            Some(hop) => {
                Detail { server: hop.detail.server || (!share && (shares || is_system)), ..hop.detail }
            }
            None => Detail { full: share, server: is_system },
        }
    }

    /// A message on a reply subject that `account` handed out goes to whoever asked.
    fn respond(
        &mut self,
        account: &Arc<Account>,
        subject: &[u8],
        from: &Arc<Link>,
        letter: Letter<'_>,
        hops: &mut Vec<Hop>,
    ) -> bool {
        let Some(pending) = account.responses.find(subject).filter(|_| hops.len() < HOPS_MAX) else {
            return false;
        };
        // a response may ask in turn
        let mut reply = letter.reply();
        let mut back = None;
        if !reply.is_empty() && !reply.starts_with(b"$JS.ACK.") {
            back = Some(self.expect(
                &pending.account,
                Pending {
                    subject: Box::default(),
                    account: account.clone(),
                    to: reply.into(),
                    kind: pending.kind,
                    threshold_nanos: pending.threshold_nanos,
                    export: pending.export.clone(),
                    share: pending.share,
                    since_nanos: AtomicU64::new(self.now_nanos),
                    measured: None,
                    answered: AtomicBool::new(false),
                },
            ));
        }
        if let Some(back) = &back {
            reply = &back.subject;
        }
        if !pending.answered.swap(true, Relaxed) {
            self.report_latency(account, &pending, from);
        }
        let mut header = letter.header().to_vec();
        let entry = self.leave_by_answer(&pending.account, (subject, &pending.to), &mut header);
        let parcel = Parcel::new(&pending.to, reply, &header, letter.payload());
        let scope = self.imported_scope(&pending.account);
        let (index, export) = (pending.account.index, pending.export.clone());
        hops.push(Hop { account: index, export, share: pending.share, detail: Detail::default() });
        let delivered = !matches!(entry, Entry::Stop) && self.send_parcel(scope, from, &parcel, hops);
        hops.pop();
        self.leave_service(account, entry);
        if let Some(back) = back.filter(|_| !delivered) {
            pending.account.responses.remove(&back, None);
        }
        if !delivered || is_over(pending.kind, letter.publish.body_len()) {
            account.responses.remove(&pending, None);
        } else {
            pending.since_nanos.store(self.now_nanos, Relaxed);
        }
        delivered
    }

    /// Has `owner` wait for an answer, on a reply subject of its own.
    pub(super) fn expect(&mut self, owner: &Arc<Account>, pending: Pending) -> Arc<Pending> {
        let mut random = || self.random_bits();
        let (prefix, is_new) = owner.responses.prefix_or_new(&mut random);
        let mut subject = owner.responses.subject(&prefix, &mut random).into_vec();
        if pending.measured.is_some()
            && let Some(token) = self.broker.measurement_token()
        {
            // whoever serves it on another server sends its measurement there
            subject.extend_from_slice(format!(".{token}.T").as_bytes());
        }
        let subject = subject.into();
        if is_new {
            let filter = [&*prefix, b">"].concat();
            owner.subscribe_server(&filter, &mut self.dirty);
            self.broker.add_responder(owner);
        }
        owner.responses.add(owner, Pending { subject, ..pending })
    }

    /// Publishes a rewritten message; `true` when somebody gets it.
    pub(super) fn send_parcel(
        &mut self,
        scope: ScopeId,
        from: &Arc<Link>,
        parcel: &Parcel,
        hops: &mut Vec<Hop>,
    ) -> bool {
        match self.publish(scope, &parcel.bytes, &parcel.publish) {
            Verdict::Delivered | Verdict::Drawn => {
                self.finish_traced(from, scope, &parcel.bytes, &parcel.publish);
                true
            }
            Verdict::Detour => {
                let Some((scope, plan)) = self.detoured.take() else { return false };
                self.finish_traced(from, scope, &parcel.bytes, &parcel.publish);
                let letter = Letter { read: &parcel.bytes, publish: &parcel.publish };
                self.travel(scope, &plan, from, letter, hops)
            }
            Verdict::NoInterest | Verdict::DrawnNobody | Verdict::Denied => {
                // who may not get it is noted
                self.finish_traced(from, scope, &parcel.bytes, &parcel.publish);
                false
            }
        }
    }

    /// Publishes what this server itself has to say in an account.
    pub(super) fn announce(
        &mut self,
        account: &Arc<Account>,
        subject: &[u8],
        payload: &[u8],
        from: &Arc<Link>,
    ) {
        let scope = self.scope(account, LinkKind::Client, None);
        let parcel = Parcel::new(subject, b"", b"", payload);
        self.send_parcel(scope, from, &parcel, &mut Vec::new());
    }
}
