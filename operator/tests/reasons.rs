//! Every reason of every condition and Event, brought about, with the message that the user sees; and none without.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use operator::apply::ApplyError;
use operator::build::config::{Placement, Reload, render};
use operator::certificates::{self, Step as Rotation, Stored};
use operator::crd::{AuthMode, NatsAccount, NatsCluster, NatsClusterStatus, NatsUser};
use operator::reason::Reason;
use operator::rollout::{Health, Observed, Server, Target, plan};
use operator::status::{self, Certificate, Note, View};
use operator::tenancy::{self, Held, Served};
use operator::validate::{Defaults, validate, version_skew};
use serde_json::{Value, json};
use support::cluster;

const LATE: Duration = Duration::from_secs(3600);

fn now() -> Time {
    Time("2026-01-01T00:00:00Z".parse().expect("a time"))
}

fn end(hours: i64) -> Option<Timestamp> {
    now().0.checked_add(SignedDuration::from_hours(hours)).ok()
}

/// Three servers as they should be, but for a change.
fn servers(change: impl FnOnce(&mut Observed)) -> Observed {
    let server = |ordinal| Server {
        ordinal,
        template: "t1".to_owned(),
        config: Some("c1".to_owned()),
        health: Health::Ready,
        leaving: false,
        routes: Some(2),
        state_age: Duration::from_secs(60),
        reload_age: None,
        version: Some("1.0.0".to_owned()),
        trouble: None,
        certificate_not_after: end(1000),
        zone: None,
    };
    let mut observed =
        Observed { workload_servers: Some(3), workload_current: true, servers: (0..3).map(server).collect() };
    change(&mut observed);
    observed
}

/// What the user sees of a cluster: its conditions, and the Events after `before`.
fn look(spec: Value, observed: &Observed, certificate: Option<&Certificate>, before: &Seen) -> Seen {
    let cluster = cluster(spec);
    let target =
        Target::new(&cluster, "t1".to_owned(), "c1".to_owned(), Reload::Possible, Duration::from_secs(10));
    let plan = plan(&target, observed);
    let view = View { cluster: &cluster, target: &target, observed, plan: &plan, certificate };
    let previous = before.status.as_ref();
    let current = status::status(view, Vec::new(), None, previous, &now());
    let notes = status::notes(&cluster, &plan.step, previous, &current);
    Seen { notes, status: Some(current) }
}

#[derive(Default)]
struct Seen {
    status: Option<NatsClusterStatus>,
    notes: Vec<Note>,
}

impl Seen {
    fn lines(&self) -> Vec<String> {
        let conditions = self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        lines(conditions, &self.notes)
    }
}

fn lines(conditions: &[Condition], notes: &[Note]) -> Vec<String> {
    let condition = |c: &Condition| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message);
    let note =
        |n: &Note| format!("{} {}: {}", if n.warning { "Warning" } else { "Normal" }, n.reason, n.message);
    conditions.iter().map(condition).chain(notes.iter().map(note)).collect()
}

/// One that was well before.
fn of(spec: Value, change: impl FnOnce(&mut Observed)) -> Vec<String> {
    let well = look(json!({}), &servers(|_| {}), None, &Seen::default());
    look(spec, &servers(change), None, &well).lines()
}

fn of_certificate(not_after: Option<Timestamp>, rotation: Option<&'static str>) -> Vec<String> {
    let certificate =
        Certificate { secret_name: "orders-tls".to_owned(), not_after, rotation, warn_before: LATE };
    look(json!({}), &servers(|_| {}), Some(&certificate), &Seen::default()).lines()
}

/// A cluster that was well, and whose spec cannot be carried out now.
fn refused(reason: Reason, message: &str) -> Vec<String> {
    let well = look(json!({}), &servers(|_| {}), None, &Seen::default());
    let status = status::invalid(8, reason, message, well.status.as_ref(), &now());
    let notes = status::transition_notes(well.status.as_ref(), &status);
    Seen { notes, status: Some(status) }.lines()
}

fn invalid_spec(spec: Value) -> String {
    let object: NatsCluster = serde_json::from_value(json!({
        "apiVersion": "starling.dev/v1alpha1", "kind": "NatsCluster", "metadata": {"name": "orders"}, "spec": spec,
    }))
    .expect("a NatsCluster");
    let problems = validate(&object, &Defaults::default()).expect_err("refused");
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn config_problem(spec: Value) -> String {
    let cluster = cluster(spec);
    render(&cluster, &Placement::in_pod(&cluster), "secret", &[]).expect_err("refused").to_string()
}

/// An account `shop` and its user `ann`, as they are told by servers that have `served`.
fn tenants(auth: AuthMode, held: Held, servers: usize, has_them: bool) -> (Vec<String>, Vec<String>) {
    let of = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "starling.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let shop: NatsAccount =
        serde_json::from_value(of("NatsAccount", "shop", json!({"clusterRef": {"name": "orders"}})))
            .expect("a NatsAccount");
    let ann: NatsUser = serde_json::from_value(of(
        "NatsUser",
        "ann",
        json!({"clusterRef": {"name": "orders"}, "accountRef": {"name": "shop"}}),
    ))
    .expect("a NatsUser");
    let held = BTreeMap::from([("ann".to_owned(), held)]);
    let observed = tenancy::Observed {
        auth,
        accounts: std::slice::from_ref(&shop),
        users: std::slice::from_ref(&ann),
        held: &held,
        before: &[],
        before_is_live: false,
        now: 0,
    };
    let outcome = tenancy::decide(&observed, || [1; 32]);
    told(&shop, &ann, &outcome, servers, has_them)
}

fn told(
    shop: &NatsAccount,
    ann: &NatsUser,
    outcome: &tenancy::Outcome,
    servers: usize,
    has_them: bool,
) -> (Vec<String>, Vec<String>) {
    let accounts = if has_them { outcome.accounts.as_slice() } else { &[] };
    let served = Served { accounts, is_complete: has_them, servers };
    let account = tenancy::account_status(shop, outcome, served, &now());
    let notes = tenancy::status_notes(&[], &account.conditions, None);
    let user = tenancy::user_status(ann, outcome, served, &now());
    let of_user = tenancy::status_notes(&[], &user.conditions, Some((None, user.user.as_ref())));
    (lines(&account.conditions, &notes), lines(&user.conditions, &of_user))
}

/// (what was seen, what must be among it)
fn cases() -> Vec<(Vec<String>, &'static str)> {
    let none = || json!({});
    let mut cases = of_health();
    cases.extend(of_refusals());
    cases.extend(of_tenants());
    cases.extend([
        (of_certificate(end(1000), None), "CertificatesReady=True Valid: every server shows the certificate that lasts until 2026-02-11T16:00:00Z"),
        (of(none(), |_| {}), "CertificatesReady=True Disabled: spec.tls.mode is Disabled: there is no certificate"),
        (of_certificate(None, None), "CertificatesReady=False Missing: Secret orders-tls holds no certificate yet"),
        (of_certificate(end(-1), None), "Warning CertificateExpired: the certificate in orders-tls ended 2025-12-31T23:00:00Z"),
        (of_certificate(end(900), None), "CertificatesReady=False NotLoaded: 3 servers still show another certificate than that in orders-tls"),
        (of_certificate(end(1000), Some("Introducing")), "CertificatesReady=True Rotating: every server shows the certificate that lasts until 2026-02-11T16:00:00Z; the next authority is being made known"),
        (
            {
                let certificate = Certificate { secret_name: "orders-tls".to_owned(), not_after: end(1), rotation: None, warn_before: LATE * 2 };
                let shown = servers(|o| o.servers.iter_mut().for_each(|server| server.certificate_not_after = end(1)));
                look(none(), &shown, Some(&certificate), &Seen::default()).lines()
            },
            "Warning CertificateExpiring: the certificate in orders-tls ends 2026-01-01T01:00:00Z and was not renewed",
        ),
        (
            lines(&[], &status::certificate_note("orders-tls", Rotation::Keep, true).into_iter().collect::<Vec<_>>()),
            "Normal CertificateRotated: orders-tls holds a new certificate, which servers load while they run",
        ),
        (
            lines(&[], &[status::unreadable("missing field `replicas`")]),
            "Warning Unreadable: cannot be read by this version of the operator: missing field `replicas`",
        ),
    ]);
    cases
}

fn of_health() -> Vec<(Vec<String>, &'static str)> {
    let none = || json!({});
    let rolled = look(none(), &servers(|o| o.servers[0].template = "t0".to_owned()), None, &Seen::default());
    vec![
        (of(none(), |_| {}), "Ready=True AllServersReady: all 3 servers are ready"),
        (of(none(), |_| {}), "Reconciling=False Done: nothing to do"),
        (of(none(), |_| {}), "Stalled=False Progressing: no help is needed"),
        (of(none(), |_| {}), "Available=True MinimumServers: 3 servers take clients"),
        (of(none(), |_| {}), "ConfigApplied=True Applied: every server runs the newest configuration"),
        (
            look(none(), &servers(|_| {}), None, &Seen::default()).lines(),
            "Normal Ready: all 3 servers are ready",
        ),
        (
            look(none(), &servers(|_| {}), None, &rolled).lines(),
            "Normal RolloutCompleted: 3 servers run the newest version and configuration",
        ),
        (of(json!({"paused": true}), |_| {}), "Ready=True Paused: spec.paused is true: nothing is changed"),
        (
            of(json!({"hibernated": true}), |_| {}),
            "Ready=False Hibernated: spec.hibernated is true: no server runs",
        ),
        (of(json!({"hibernated": true}), |_| {}), "Reconciling=True Hibernating: all servers stop"),
        (of(json!({"hibernated": true}), |_| {}), "Normal Hibernating: all servers stop"),
        (of(json!({"replicas": 5}), |_| {}), "Ready=False ScalingUp: from 3 to 5 servers"),
        (of(json!({"replicas": 5}), |_| {}), "Normal ScaleUp: from 3 to 5 servers"),
        (
            of(json!({"replicas": 2}), |_| {}),
            "Ready=False ScalingDown: from 3 to 2 servers: orders-2 sends its clients to the others and leaves",
        ),
        (
            of(json!({"replicas": 2}), |_| {}),
            "Normal ScaleDown: from 3 to 2 servers: orders-2 sends its clients to the others and leaves",
        ),
        (
            of(none(), |o| o.servers[2].config = Some("c0".to_owned())),
            "Ready=False Reloading: orders-2 loads the new configuration",
        ),
        (
            of(none(), |o| o.servers[2].config = Some("c0".to_owned())),
            "Normal ConfigReloaded: orders-2 loads the new configuration",
        ),
        (
            of(none(), |o| o.servers[2].config = Some("c0".to_owned())),
            "ConfigApplied=False ReloadPending: 1 servers are to load it",
        ),
        (
            of(none(), |o| o.servers[2].template = "t0".to_owned()),
            "Ready=False RollingUpdate: orders-2 is outdated",
        ),
        (
            of(none(), |o| o.servers[2].template = "t0".to_owned()),
            "Normal ServerRestarting: orders-2 is outdated",
        ),
        (
            of(none(), |o| o.servers[2].template = "t0".to_owned()),
            "ConfigApplied=False RestartRequired: 1 servers are to be replaced",
        ),
        (
            of(none(), |o| o.servers[1].config = None),
            "ConfigApplied=Unknown NotReported: 1 servers do not tell which configuration they run",
        ),
        (
            of(none(), |o| o.servers[1].health = Health::Unready),
            "Ready=False WaitingForServers: waiting for orders-1 to become ready",
        ),
        (
            of(none(), |o| o.servers.iter_mut().for_each(|server| server.health = Health::Unready)),
            "Available=False NoServers: no server takes clients",
        ),
        (
            of(none(), |o| o.servers.iter_mut().for_each(|server| server.health = Health::Unready)),
            "Warning Unavailable: no server takes clients",
        ),
        (
            of(none(), |o| (o.servers[1].leaving, o.servers[1].state_age) = (true, LATE)),
            "Warning ServerNotLeaving: waiting for orders-1 to leave, which takes too long; if its node is gone for good, delete the Node, or the pod with --force",
        ),
        (
            of(none(), |o| (o.servers[1].health, o.servers[1].state_age) = (Health::Unready, LATE)),
            "Warning RolloutGateTimeout: waiting for orders-1 to become ready",
        ),
    ]
}

fn of_refusals() -> Vec<(Vec<String>, &'static str)> {
    let skew = version_skew("0.1.0", "0.3.0").expect("too far");
    let refusal = status::taken_back("orders-2: nats: authorization violation");
    let foreign = ApplyError::Foreign { kind: "Service".to_owned(), name: "orders".to_owned() };
    let certificate =
        certificates::check(&Stored::default(), "Secret mine", None).expect_err("no certificate");
    vec![
        (
            refused(Reason::InvalidSpec, &invalid_spec(json!({"config": {"merge": {"port": 1}}}))),
            "Warning InvalidSpec: spec.config.merge.port: belongs to the operator; use the field of the spec that sets it, or leave it out",
        ),
        (
            refused(Reason::VersionSkew, &skew),
            "Stalled=True VersionSkew: spec.version: servers run 0.1.0 and 0.3.0 is more than one minor version away; go to 0.2 first",
        ),
        (
            refused(
                Reason::ConfigRejected,
                &config_problem(json!({"config": {"merge": {"no_such_key": 7}}})),
            ),
            "Stalled=True ConfigRejected: spec.config.merge: unknown field \"no_such_key\"",
        ),
        (refused(Reason::ConfigRejected, "x"), "ConfigApplied=False Rejected: x"),
        (
            refused(Reason::ReloadRefused, &refusal),
            "Warning ReloadRefused: orders-2: nats: authorization violation; no server was changed and no other was asked, and the configuration before it is in force. Correct the spec, or set the annotation starling.dev/restarted-at to have servers start with it",
        ),
        (
            refused(Reason::SecretMissing, &status::secret_missing("mine", "spec.tls.secret")),
            "Warning SecretMissing: Secret mine, named by spec.tls.secret, does not exist",
        ),
        (
            refused(Reason::CertificateInvalid, &certificate),
            "Warning CertificateInvalid: Secret mine has no tls.crt; servers need tls.crt, tls.key and ca.crt",
        ),
        (
            refused(Reason::CertManagerMissing, &ApplyError::NoCertManager.to_string()),
            "Warning CertManagerMissing: spec.tls.mode is CertManager, and the API server knows no Certificate of cert-manager.io/v1: install cert-manager, or choose another mode",
        ),
        (
            refused(Reason::NameTaken, &foreign.to_string()),
            "Warning NameTaken: Service orders exists and does not belong to this cluster; delete or rename it, or rename the NatsCluster",
        ),
    ]
}

fn of_tenants() -> Vec<(Vec<String>, &'static str)> {
    let live = |has_them| tenants(AuthMode::Static, Held::Nothing, 3, has_them);
    let missing_account = {
        let user: NatsUser = serde_json::from_value(json!({"apiVersion": "starling.dev/v1alpha1", "kind": "NatsUser",
            "metadata": {"name": "ann"}, "spec": {"clusterRef": {"name": "orders"}, "accountRef": {"name": "shop"}}}))
        .expect("a NatsUser");
        let observed = tenancy::Observed {
            auth: AuthMode::Static,
            accounts: &[],
            users: std::slice::from_ref(&user),
            held: &BTreeMap::new(),
            before: &[],
            before_is_live: false,
            now: 0,
        };
        let outcome = tenancy::decide(&observed, || [1; 32]);
        let served = Served { accounts: &[], is_complete: false, servers: 3 };
        let status = tenancy::user_status(&user, &outcome, served, &now());
        lines(&status.conditions, &tenancy::status_notes(&[], &status.conditions, None))
    };
    let no_cluster = {
        let refusal = tenancy::no_cluster("orders", "shop");
        lines(&[], &[Note { warning: true, reason: refusal.reason, message: refusal.message }])
    };
    let (was, is) = ("ann_1".to_owned(), "ann_2".to_owned());
    vec![
        (live(true).0, "Ready=True Known: every server knows the account"),
        (live(true).0, "Synced=True Applied: all 3 servers have it as the spec says"),
        (live(true).1, "Ready=True Accepted: every server lets in who has Secret ann-nats"),
        (live(true).1, "Normal CredentialsCreated: the Secret holds ann_1"),
        (live(false).0, "Ready=False Pending: not every server knows the account yet"),
        (tenants(AuthMode::Static, Held::Nothing, 0, false).1, "Ready=False NoServers: no server runs"),
        (
            tenants(AuthMode::None, Held::Nothing, 3, false).0,
            "Warning AuthDisabled: spec.auth.mode of the NatsCluster is None; set it to Static",
        ),
        (
            tenants(AuthMode::Static, Held::Foreign, 3, false).1,
            "Warning SecretTaken: Secret ann-nats exists and does not belong to this NatsUser; delete it, or set spec.credentials.secretName",
        ),
        (missing_account, "Warning AccountNotFound: no NatsAccount shop of this cluster in this namespace"),
        (no_cluster, "Warning ClusterNotFound: no NatsCluster orders in namespace shop"),
        (
            lines(&[], &tenancy::status_notes(&[], &[], Some((Some(&was), Some(&is))))),
            "Normal CredentialsRotated: the Secret now holds ann_2; ann_1 is let in until the overlap ends",
        ),
    ]
}

#[test]
fn every_reason_is_brought_about_and_tells_what_is_wrong() {
    let mut shown = BTreeSet::new();
    let mut absent = Vec::new();
    for (seen, expected) in cases() {
        if !seen.iter().any(|line| line == expected) {
            absent.push(format!("{expected}\n  is not among {seen:#?}"));
        }
        let head = expected.split(": ").next().unwrap_or_default();
        shown.insert(head.rsplit(' ').next().unwrap_or_default());
    }
    assert!(absent.is_empty(), "{}", absent.join("\n"));
    let all: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(shown, all, "each reason has a case above");
}
