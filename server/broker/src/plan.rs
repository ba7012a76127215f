//! What happens to a message on one subject, worked out once and used until interest changes.
//!
//! A plan holds choices, not their outcome: the member of a queue group is drawn per message.

use crate::interest::{Interest, NONE, Progress};
use crate::link::{Link, LinkKind, may_forward};
use crate::render::{READ_PADDING, Sid};
use crate::router::ScopeId;
use crate::sharing::{ServiceRoute, Sharing};
use std::sync::Arc;

const SID_INLINE: usize = 15;

/// A subject that takes the place of the one in the publisher's bytes, with a blank and readable bytes behind it.
pub(crate) struct Text {
    bytes: Box<[u8]>,
    pub len: u32,
}

impl Text {
    pub fn new(mut subject: Vec<u8>) -> Text {
        let len = subject.len();
        subject.resize(len + READ_PADDING, b' ');
        Text { bytes: subject.into(), len: len as u32 }
    }

    /// The subject with what lies behind it.
    pub fn padded(&self) -> &[u8] {
        &self.bytes
    }

    /// The subject.
    pub fn subject(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

/// A local subscription that gets the message.
pub(crate) struct Target {
    pub link: Arc<Link>,
    /// Number of the subscription in its account's interest.
    pub subscription: u32,
    pub progress: Arc<Progress>,
    /// The subject that it arrives under, where a stream import renames it.
    pub subject: Option<Text>,
    sid: [u8; SID_INLINE + 1],
    sid_len: u8,
    long_sid: Option<Box<[u8]>>,
}

impl Target {
    /// The sid and the space behind it.
    #[inline]
    pub fn sid(&self) -> Sid<'_> {
        match &self.long_sid {
            None => Sid::Short(&self.sid, self.sid_len as usize),
            Some(sid) => Sid::Long(sid),
        }
    }
}

/// A server that gets the message over a route.
pub(crate) struct RouteTarget {
    pub link: Arc<Link>,
    /// It has plain subscribers; else it gets only what its queue groups are drawn for.
    pub plain: bool,
}

/// A queue group: one member gets each message.
pub(crate) struct Group {
    pub name: Box<[u8]>,
    /// Places in `targets`.
    pub local: Vec<u32>,
    /// Places in `routes`, and the members behind each.
    pub remote: Vec<(u32, u32)>,
    pub remote_weight: u32,
}

/// Why a message cannot simply be staged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Unusual {
    #[default]
    None,
    /// The publisher may not publish here.
    Denied,
    /// A mapping gave it another subject, and nobody is there to get it.
    Mapped,
    /// A mapping draws a destination for each message.
    Choice,
    /// It goes on in other accounts: a request to an imported service.
    Services,
    /// It may answer a request of another account.
    Response,
    /// It answers a request that another server measures.
    Tracked,
    /// Another server measured an answer to a request from here.
    Measurement,
}

/// Who gets a message under another subject than its publisher wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Renamed {
    #[default]
    Nobody,
    /// Everybody gets it under the plan's subject.
    Alike,
    /// Some target has a subject of its own.
    Each,
}

/// The compiled outcome for one subject, from one kind of origin.
#[derive(Default)]
pub(crate) struct Plan {
    /// First the plain ones, then the members of groups.
    pub targets: Vec<Target>,
    pub plain: usize,
    pub routes: Vec<RouteTarget>,
    pub groups: Vec<Group>,
    /// What the usual way does not do; [`Unusual::None`] for nearly every plan.
    pub unusual: Unusual,
    /// The subject that the account's mappings make of the published one.
    pub subject: Option<Text>,
    /// Who gets it under another subject than the publisher wrote.
    pub renamed: Renamed,
    /// Imported services that answer on this subject.
    pub services: Vec<ServiceRoute>,
    /// Where to ask for each message, and the scope of what the answer is then looked up in.
    pub choice: Option<(Arc<Sharing>, ScopeId)>,
    /// The same subscriptions may have another plan on another subject: some are held to permissions.
    pub is_for_one_subject: bool,
    /// Name of the account, for routes; empty without any.
    pub account: Box<[u8]>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.plain == 0 && self.groups.is_empty() && self.routes.is_empty()
    }

    /// Only plain local targets: a whole batch can be rendered per target in one go.
    pub fn is_plain(&self) -> bool {
        self.groups.is_empty() && self.routes.is_empty()
    }

    /// The subject under which `target` gets the message, if it is not the publisher's.
    #[inline]
    pub fn subject_for<'a>(&'a self, target: &'a Target) -> Option<&'a Text> {
        match self.renamed {
            Renamed::Nobody => None,
            Renamed::Alike => self.subject.as_ref(),
            Renamed::Each => target.subject.as_ref().or(self.subject.as_ref()),
        }
    }

    /// Builds the plan from the subscriptions that matched. `imported`: the message was a request to an imported
    /// service or its response; it is not exported again as a stream.
    pub fn build(
        account: &str,
        interest: &Interest,
        numbers: &[u32],
        subject: &[u8],
        (from, imported): (LinkKind, bool),
        link_of: &dyn Fn(u32) -> Option<Arc<Link>>,
    ) -> Plan {
        // as many places as there can be targets, not more: a plan is kept for each subject in use
        let mut plan = Plan { targets: Vec::with_capacity(numbers.len()), ..Plan::default() };
        let mut members = Vec::new();
        let mut served = Vec::new();
        // the subscriptions of a filter come latest first; groups and routes want the order of arrival
        for number in numbers.iter().rev() {
            let record = interest.get(*number);
            let Some(link) = link_of(record.link) else { continue };
            // a message that came over a route may go on over another one only for a queue group whose members
            // here have left since it was sent: see `Router::draw`
            if !may_forward(from, link.kind) && record.queue == NONE {
                served.push(link.id);
                continue;
            }
            let queue = (record.queue != NONE).then(|| interest.queue_name(record.queue));
            let shadow = interest.shadow(*number);
            if shadow.is_some() && imported {
                continue;
            }
            let local = shadow.map(|shadow| shadow.local_subject(subject));
            // a wildcard subscription may cover subjects that its owner may not read
            if let Some(permissions) = link.deny_filter() {
                plan.is_for_one_subject = true;
                if !permissions.can_deliver(local.as_deref().unwrap_or(subject), queue) {
                    continue;
                }
            }
            match (link.kind, record.queue) {
                (LinkKind::Route, NONE) => {
                    let place = plan.route_place(&link);
                    plan.routes[place as usize].plain = true;
                }
                (LinkKind::Route, queue) => {
                    let place = plan.route_place(&link);
                    let group = plan.group(interest.queue_name(queue));
                    group.remote.push((place, record.weight));
                    group.remote_weight += record.weight;
                }
                (_, queue) => {
                    let mut target = target(interest, *number, link);
                    if let (Some(shadow), Some(local)) = (shadow, local) {
                        target.subscription = shadow.of;
                        target.subject = Some(Text::new(local));
                        (plan.renamed, plan.is_for_one_subject) = (Renamed::Each, true);
                    }
                    match queue {
                        NONE => plan.targets.push(target),
                        queue => members.push((queue, target)),
                    }
                }
            }
        }
        plan.without_served(&served);
        plan.plain = plan.targets.len();
        for (queue, member) in members {
            let place = plan.targets.len() as u32;
            plan.targets.push(member);
            plan.group(interest.queue_name(queue)).local.push(place);
        }
        // targets of one link side by side, so that its output is rendered and locked once
        plan.targets[..plan.plain].sort_by_key(|t| t.link.index);
        plan.targets.shrink_to_fit();
        if !plan.routes.is_empty() {
            plan.account = account.as_bytes().into();
        }
        plan
    }

    /// A message that goes on for a queue group reaches the plain subscribers of that server as well, and these have
    /// it already if they have told their interest. Rather none of the group gets it than somebody gets it twice.
    fn without_served(&mut self, served: &[u64]) {
        let routes = &self.routes;
        for group in self.groups.iter_mut().filter(|_| !served.is_empty()) {
            group.remote.retain(|(route, _)| !served.contains(&routes[*route as usize].link.id));
            group.remote_weight = group.remote.iter().map(|(_, weight)| weight).sum();
        }
    }

    fn route_place(&mut self, link: &Arc<Link>) -> u32 {
        if let Some(place) = self.routes.iter().position(|r| r.link.index == link.index) {
            return place as u32;
        }
        self.routes.push(RouteTarget { link: link.clone(), plain: false });
        self.routes.len() as u32 - 1
    }

    fn group(&mut self, name: &[u8]) -> &mut Group {
        let place = match self.groups.iter().position(|g| *g.name == *name) {
            Some(place) => place,
            None => {
                self.groups.push(Group {
                    name: name.into(),
                    local: vec![],
                    remote: vec![],
                    remote_weight: 0,
                });
                self.groups.len() - 1
            }
        };
        &mut self.groups[place]
    }
}

fn target(interest: &Interest, number: u32, link: Arc<Link>) -> Target {
    let name = interest.sid(number);
    let mut sid = [b' '; SID_INLINE + 1];
    let mut long_sid = None;
    if name.len() <= SID_INLINE {
        sid[..name.len()].copy_from_slice(name);
    } else {
        long_sid = Some([name, b" "].concat().into_boxed_slice());
    }
    Target {
        link,
        subscription: number,
        progress: interest.progress(number),
        subject: None,
        sid,
        sid_len: (name.len().min(SID_INLINE) + 1) as u8,
        long_sid,
    }
}
